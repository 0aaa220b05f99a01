"""Models, weights and images: where they come from, and what tells one from another."""
