"""The slow twin of planted edges: what changes when sources are removed, told by the structural equations alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vismech.measures.planted.circuits import Circuit, simulate


@torch.no_grad()
def dependences(circuit: Circuit, codes: Tensor, draws: int) -> np.ndarray:
    """Which targets [T, K] change anywhere in ``codes`` [N, K, h, w] when a source is removed: the meaning of an edge.

    A source is removed alone, last of all, and after random sets of others.
    """
    draw, count = circuit.generator("subsets"), len(circuit.sources)
    sets = [np.zeros(count, dtype=bool), np.ones(count, dtype=bool), *(draw.random((draws, count)) < 0.5)]
    found = np.zeros((circuit.widths[-1], count), dtype=bool)
    for others in sets:
        for source in range(count):
            pair = []
            for own in (False, True):
                removed = others.copy()
                removed[source] = own
                pair.append(simulate(circuit, codes * torch.from_numpy(~removed)[:, None, None])[-1])
            found[:, source] |= ((pair[0] - pair[1]).abs().amax((0, 2, 3)) > 1e-5).numpy()
    return found
