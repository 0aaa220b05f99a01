"""Content-addressed artifacts on disk: written once, believed only when whole."""
