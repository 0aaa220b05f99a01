"""A concept's value in the next layer as concepts are inserted and deleted."""
