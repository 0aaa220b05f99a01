"""Passes over images: batches, devices, rows; Lightning runs them."""
