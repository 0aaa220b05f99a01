"""Edited models to keep: what is done to a model's concepts as a file of data, applied to the model again and exported.

Importing this package also tells torch of ``vismech::encode``, which exported programs of edited models call.
"""

from vismech.edit.saved import ModelEdit, load

__all__ = ["ModelEdit", "load"]
