"""vismech: how an image model computes, as a causal graph of concepts."""
