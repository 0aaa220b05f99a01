"""Sparse autoencoders: the model, and its training."""
