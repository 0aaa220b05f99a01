"""Insertion and deletion in an order that other images gave."""
