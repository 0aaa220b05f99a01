"""What comes back with other seeds, images and settings."""
