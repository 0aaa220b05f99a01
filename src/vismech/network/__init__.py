"""A model as named layers, cut exactly between any two of them."""
