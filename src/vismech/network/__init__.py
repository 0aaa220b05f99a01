"""A model as named layers, cut exactly between any two of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vismech.network.cut import HookedNetwork, Network, open_network

__all__ = ["HookedNetwork", "Network", "open_network"]


def __getattr__(name: str) -> Any:
    """The names above, loaded with torch when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("vismech.network.cut"), name)
