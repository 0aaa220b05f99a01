"""How well attributions tell what units do."""
