"""Which pixels a pointwise feature vector came from: sharing ratios, receptive fields, saliency (METHOD §2)."""

from vismech.receptive_field.gradient import AttributionMethod, attribution_maps, gradient_relevance
from vismech.receptive_field.measure import LayerRelevance, layer_relevance, sharing_ratios
from vismech.receptive_field.ratios import SharingRatios

__all__ = [
    "AttributionMethod",
    "LayerRelevance",
    "SharingRatios",
    "attribution_maps",
    "gradient_relevance",
    "layer_relevance",
    "sharing_ratios",
]
