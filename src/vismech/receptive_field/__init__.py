"""Which pixels a pointwise feature vector came from: sharing ratios, receptive fields, saliency.

**SRD** = Han et al., "Respect the model: Fine-grained and Robust Explanation with Sharing Ratio Decomposition", ICLR
2024, arXiv 2402.03348. What it leaves open is ours: the rules for batch norm on a concatenation and for a max pool that
something else than a convolution reads, and equal shares where a window, or z itself, is zero.
"""

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
