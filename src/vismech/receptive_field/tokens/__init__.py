"""Which tokens a vector came from, in networks with attention: fields over the tokens that the first block reads.

Four fields behind one contract (:func:`token_fields`): gradient × input, integrated gradients, AttnLRP (Achtibat et al.
2024, arXiv 2402.05602) and attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928).
"""

from vismech.receptive_field.tokens.fields import TokenField, TokenMaps, concept_fields, pixel_maps, token_fields
from vismech.receptive_field.tokens.ground import Ground, ground_of, mean_tokens

__all__ = [
    "Ground",
    "TokenField",
    "TokenMaps",
    "concept_fields",
    "ground_of",
    "mean_tokens",
    "pixel_maps",
    "token_fields",
]
