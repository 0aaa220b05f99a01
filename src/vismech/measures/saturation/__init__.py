"""Where along the path attributions come from."""
