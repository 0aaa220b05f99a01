"""The class as concepts are inserted and deleted in the order of their attribution."""
