"""How much of a layer its concepts rebuild."""
