"""Edges of networks whose edges are known."""
