"""What every tap of a convolution gives to z, as <v_t, z> and ||v_t||: one kind of arithmetic per kind of kernel.

    v_t = W_t x_t,  x_t = the input at tap t

Legend: B images, (r, q) taps, T of them, h×w output positions, G groups, i and o channels per group in and out,
N = B·h·w. Channels stand last, mostly contiguous, so that what a tap reads is a run of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vismech.receptive_field.windows import Window

_THIN = 4  # channels


class Taps:
    """One kind of arithmetic, with the weights laid out for it.

    Attributes:
        channels: channels of its largest intermediate result, per tap and position.
        runs: whether it wants the channels contiguous.
    """

    channels: int
    runs: bool

    def prepare(self, z: Float[Tensor, "b h w c"]) -> Tensor:
        """What is needed of z, the same for all maps that share it (the parts of a max pool)."""
        raise NotImplementedError

    def __call__(
        self, x: Float[Tensor, "b rows columns c"], z: Tensor, height: int, norms: bool
    ) -> list[Float[Tensor, "r q b h w"]]:
        """[<v_t, z>, ||v_t|| if wanted], for the first ``height`` rows of positions over the padded input x."""
        raise NotImplementedError


def taps_of(matrices: Float[Tensor, "r q g o i"], window: Window, parts: int) -> Taps:
    """The cheapest arithmetic for a convolution, where ``parts`` maps share a z."""
    groups, outputs, inputs = matrices.shape[2:]
    if inputs == outputs == 1:
        return Depthwise(matrices, window)
    if groups == parts == 1 and inputs <= _THIN:
        return Thin(matrices, window)
    if parts * outputs > outputs + parts * inputs:
        return Pulled(matrices, window)
    return Dense(matrices, window)


class Dense(Taps):
    """v_t = W_t x_t as it stands. Taps of one kernel row read the same columns, so they are one product."""

    runs = True

    def __init__(self, matrices: Float[Tensor, "r q g m i"], window: Window) -> None:
        self.window, self.groups = window, matrices.shape[2]
        self.channels = matrices.shape[2] * matrices.shape[3]
        self.shares_rows = window.stride[1] == 1
        if self.shares_rows:
            matrices = matrices.transpose(1, 2).flatten(2, 3)[:, None]
        self.matrices = matrices.contiguous()  # [r, reads, G, m, i]

    def prepare(self, z: Tensor) -> Float[Tensor, "g b h w o"]:
        """See :class:`Taps`."""
        return z.unflatten(-1, (self.groups, -1)).movedim(-2, 0)

    def __call__(self, x: Tensor, z: Tensor, height: int, norms: bool) -> list[Tensor]:
        """See :class:`Taps`."""
        found = [z.new_empty(*self.window.kernel, len(x), height, z.shape[3]) for _ in range(2 if norms else 1)]
        for where, v in self.contributions(x, height):
            found[0][where] = (v * z).sum(-1).sum(1)
            if norms:
                found[1][where] = _lengths(v)
        return found

    def contributions(
        self, x: Tensor, height: int
    ) -> Iterator[tuple[tuple[int, slice], Float[Tensor, "taps g b h w m"]]]:
        """Where some taps stand, and their v."""
        kernel, width = self.window.kernel, self.window.size_out[1]
        if not self.shares_rows:
            unfolded = self.window.unfold(x, height)
            for row in range(kernel[0]):
                for column in range(kernel[1]):
                    v = _product(unfolded[row, column], self.matrices[row, column])
                    yield (row, slice(column, column + 1)), v[None]
            return
        for row in range(kernel[0]):
            first = row * self.window.dilation[0]
            read = x[:, first : first + self.window.stride[0] * (height - 1) + 1 : self.window.stride[0]]
            v = _product(read, self.matrices[row, 0]).unflatten(-1, (kernel[1], -1))  # [G, B, h, columns, q, m]
            *outer, column, tap, last = v.stride()
            size = (kernel[1], *v.shape[:3], width, v.shape[-1])
            yield (row, slice(None)), v.as_strided(size, (self.window.dilation[1] * column + tap, *outer, column, last))


class Pulled(Taps):
    """For kernels that widen: <v_t, z> = <x_t, W_tᵀz>, one W_tᵀz for all maps that share z; ||v_t|| = ||R_t x_t||.

    W_t = Q_t R_t is its QR decomposition.
    """

    runs = True

    def __init__(self, matrices: Float[Tensor, "r q g o i"], window: Window) -> None:
        self.window, self.groups = window, matrices.shape[2]
        self.channels = matrices.shape[2] * matrices.shape[4]
        self.transposed = matrices.permute(2, 0, 1, 4, 3).flatten(1, 3).contiguous()  # [G, T·i, o]
        self.triangles = Dense(torch.linalg.qr(matrices, mode="r").R, window)

    def prepare(self, z: Tensor) -> Float[Tensor, "r q g b h w i"]:
        """See :class:`Taps`."""
        return _product(z, self.transposed).unflatten(-1, (*self.window.kernel, -1)).movedim((-3, -2), (0, 1))

    def __call__(self, x: Tensor, z: Tensor, height: int, norms: bool) -> list[Tensor]:
        """See :class:`Taps`."""
        read = self.window.unfold(x, height).unflatten(-1, (self.groups, -1)).movedim(-2, 2)  # [r, q, G, B, h, w, i]
        # The product is laid out by hand: torch would give it the order of the overlapping view.
        products = torch.mul(read, z, out=z.new_empty(read.shape)).sum(-1).sum(2)
        if not norms:
            return [products]
        lengths = torch.empty_like(products)
        for where, v in self.triangles.contributions(x, height):
            lengths[where] = _lengths(v)
        return [products, lengths]


class Thin(Taps):
    """The same for few input channels, such as pixels: sums over channels, one by one, where products would be slow."""

    runs = False

    def __init__(self, matrices: Float[Tensor, "r q 1 o i"], window: Window) -> None:
        self.window, self.channels = window, matrices.shape[-1]
        matrices = matrices[:, :, 0].flatten(0, 1)  # [T, o, i]
        self.transposed = matrices.permute(2, 0, 1).flatten(0, 1).contiguous()  # [i·T, o]
        self.triangles = torch.linalg.qr(matrices, mode="r").R.permute(1, 2, 0)[..., None].contiguous()  # [m, i, T, 1]

    def prepare(self, z: Tensor) -> Float[Tensor, "i t n"]:
        """See :class:`Taps`."""
        return torch.matmul(self.transposed, z.movedim(-1, 0).flatten(1)).view(self.channels, self.window.taps, -1)

    def __call__(self, x: Tensor, z: Tensor, height: int, norms: bool) -> list[Tensor]:
        """See :class:`Taps`."""
        read = self.window.unfold(x, height).movedim(-1, 0)
        planes = z.new_empty(read.shape).copy_(read).view(z.shape)  # [i, T, N]
        found = [_dot(planes, z)]
        if norms:
            squares = torch.zeros_like(planes[0])
            for row in self.triangles:
                v = _dot(planes, row)
                squares.addcmul_(v, v)
            found.append(squares.sqrt_())
        return [one.view(read.shape[1:]) for one in found]


class Depthwise(Taps):
    """v_tc = w_tc x_tc."""

    runs = True

    def __init__(self, matrices: Float[Tensor, "r q c 1 1"], window: Window) -> None:
        self.window, self.channels = window, matrices.shape[2]
        self.weights = matrices.flatten(2)[:, :, None, None, None].contiguous()

    def prepare(self, z: Tensor) -> Float[Tensor, "b h w c"]:
        """See :class:`Taps`."""
        return z

    def __call__(self, x: Tensor, z: Tensor, height: int, norms: bool) -> list[Tensor]:
        """See :class:`Taps`."""
        read = self.window.unfold(x, height)
        v = torch.mul(read, self.weights, out=z.new_empty(read.shape))
        lengths = [torch.linalg.vector_norm(v, dim=-1)] if norms else []
        return [v.mul_(z).sum(-1), *lengths]


def _dot(x: Float[Tensor, "i t n"], y: Float[Tensor, "i t _"]) -> Float[Tensor, "t n"]:
    """Σ_i x_i y_i, in one pass per channel."""
    total = x[0] * y[0]
    for one, other in zip(x[1:], y[1:], strict=True):
        total.addcmul_(one, other)
    return total


def _lengths(v: Float[Tensor, "taps g b h w m"]) -> Float[Tensor, "taps b h w"]:
    lengths = torch.linalg.vector_norm(v, dim=-1)
    return lengths[:, 0] if lengths.shape[1] == 1 else torch.linalg.vector_norm(lengths, dim=1)


def _product(x: Float[Tensor, "b h w c"], matrices: Float[Tensor, "g m i"]) -> Float[Tensor, "g b h w m"]:
    """Matrix times the channels of each group."""
    if len(matrices) == 1 and x.device.type == "cpu" and x.dtype == torch.float32:
        # On one thread torch leaves matrix products and plain 1×1 convolutions to a library that is half as fast on
        # some processors as the one it gives dilated convolutions to. A kernel of one tap is the same dilated.
        return F.conv2d(x.movedim(-1, 1), matrices[0, :, :, None, None], dilation=2).movedim(1, -1)[None]
    groups = x.unflatten(-1, (len(matrices), -1)).movedim(-2, 0)
    return torch.bmm(groups.flatten(1, -2), matrices.mT).view(*groups.shape[:-1], -1)
