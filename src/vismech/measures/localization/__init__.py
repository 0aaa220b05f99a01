"""What survives of a concept in the pixels that its localisation maps point at."""
