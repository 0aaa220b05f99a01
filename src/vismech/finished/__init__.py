"""A finished run, opened again: its numbers from its folder alone, its concepts and dictionaries from the store."""
