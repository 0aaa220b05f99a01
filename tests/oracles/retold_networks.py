"""Parts of random networks, each a module that also retells itself to the slow twin of sharing ratios.

Values that a rule may still change (sums, pools, maps side by side) are handed on as such, so that what is fused with
what is decided twice: by the graph, and here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oracles import sharing_ratio_twin as twin

Shape = tuple[int, int, int]


class Step(nn.Module):
    """Part of a network; ``told`` is the value that the twin gave to its output."""

    told: twin.Value

    def tell(self, x: twin.Value) -> twin.Value:
        self.told = self.twin(x)
        return self.told

    def twin(self, x: twin.Value) -> twin.Value:
        raise NotImplementedError


def shared(x: twin.Value) -> twin.Value:
    """A value that several steps read: an open sum is closed, pools and maps side by side serve each reader."""
    return x.map if isinstance(x, twin.Sum) else x


class Chain(Step):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x

    def twin(self, x: twin.Value) -> twin.Value:
        for step in self.steps:
            x = step.tell(x)
        return x


class Convolution(Step):
    """With explicit padding of its own where ``around`` (left, right, top, bottom) is given."""

    def __init__(self, conv: nn.Conv2d, bn: bool, around: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.conv, self.bn, self.around = conv, nn.BatchNorm2d(conv.out_channels) if bn else None, around

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x if self.around is None else F.pad(x, self.around))
        return x if self.bn is None else self.bn(x)

    def twin(self, x: twin.Value) -> twin.Value:
        def folded(bn: nn.BatchNorm2d | None) -> twin.Sum:
            if isinstance(x, twin.Pooled) and self.around is None:
                branch, shape = twin.pooled_convolution(x.source, x.pool, self.conv, bn)
            else:
                padding = self.around and ((self.around[2], self.around[0]), (self.around[3], self.around[1]))
                branch, shape = twin.convolution(x.map, self.conv, bn, padding)
            return twin.Sum([branch], shape)

        result = folded(self.bn)
        result.folded = folded if self.bn is None else None
        return result


class Norm(Step):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x)

    def twin(self, x: twin.Value) -> twin.Value:
        match x:
            case twin.Beside(parts):
                branch, shape = twin.blocks(parts, self.bn)
                return twin.Sum([branch], shape)
            case twin.Sum(folded=folded) if folded is not None:
                return folded(self.bn)
            case _:
                return twin.apply(self.bn, x.map)


class Pointwise(Step):
    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def twin(self, x: twin.Value) -> twin.Value:
        if isinstance(self.function, nn.Dropout) and isinstance(x, twin.Pooled):
            return x
        return twin.apply(self.function, x.map)


class Pool(Pointwise):
    def twin(self, x: twin.Value) -> twin.Value:
        if isinstance(self.function, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            return twin.average(x.map, self.function)
        pooled = twin.Pooled(x.map, self.function)
        return pooled if twin.is_even(x.map, self.function) else pooled.map


class Residual(Step):
    """A body beside an identity, a projection or an option-A shortcut (``added`` channels of zeros on both sides)."""

    def __init__(self, body: Chain, shortcut: Step | None, stride: int = 1, added: int = 0) -> None:
        super().__init__()
        self.body, self.shortcut, self.stride, self.added = body, shortcut, stride, added

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            beside = self.shortcut(x)
        elif self.stride == 1 and not self.added:
            beside = x
        else:
            beside = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return self.body(x) + beside

    def twin(self, x: twin.Value) -> twin.Value:
        x = shared(x)
        body = self.body.tell(x)
        if self.shortcut is not None:
            beside = self.shortcut.tell(x)
            assert isinstance(beside, twin.Sum)
        else:
            branch, shape = twin.identity(x.map, self.stride, self.added)
            beside = twin.Sum([branch], shape)
        branches = body.branches if isinstance(body, twin.Sum) else [twin.identity(body.map)[0]]
        return twin.Sum([*branches, *beside.branches], beside.shape)


class Parallel(Step):
    """Branches side by side, perhaps with what they read (as in a dense block)."""

    def __init__(self, branches: list[Chain], keeps: bool) -> None:
        super().__init__()
        self.branches, self.keeps = nn.ModuleList(branches), keeps

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*([x] if self.keeps else []), *(branch(x) for branch in self.branches)], 1)

    def twin(self, x: twin.Value) -> twin.Value:
        x = shared(x)
        parts = [branch.tell(x).map for branch in self.branches]
        return twin.Beside([*([x.map] if self.keeps else []), *parts])


class Network(nn.Module):
    def __init__(self, trunk: Chain, shape: Shape, averaged: bool) -> None:
        super().__init__()
        self.trunk, self.averaged = trunk, averaged
        self.head = nn.Linear(shape[0] if averaged else shape[0] * shape[1] * shape[2], 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1) if self.averaged else x.flatten(1))
