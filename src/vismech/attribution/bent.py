"""Paths whose shape follows from the data and not from the target: Spectral IG and Manifold IG.

Both are line integrals with the increments that the path makes over the cells of a quadrature rule, cell s being
[w_1 + … + w_{s−1}, w_1 + … + w_s]: increments sum to the whole way, so that of a linear function nothing is missed.

Legend: B images, I of them, S nodes, T targets, P positions, C channels, N numbers of a position, K components,
Q units.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.attribution.coordinates import Coordinates
from vismech.attribution.gig import ends, nodes_of, pieces
from vismech.attribution.model_calls import Problem, check_finite
from vismech.attribution.quadrature import Quadrature
from vismech.attribution.searched import Found
from vismech.attribution.sources import Edges, Source
from vismech.config.choices import SourceKind
from vismech.errors import UserError


@runtime_checkable
class Decoder(Protocol):
    """A manifold of one's own: the numbers of a source, and latent vectors that stand for them."""

    def encode(self, numbers: Float[Tensor, "b p n"]) -> Float[Tensor, "b l"]:
        """The latent vectors of numbers: pixels of images as [B, H·W, 3], or codes at positions."""
        ...

    def decode(self, latent: Float[Tensor, "m l"]) -> Float[Tensor, "m p n"]:
        """The numbers of latent vectors, by differentiable operations of torch."""
        ...


def spectral_ig(
    problem: Problem,
    source: Source,
    numbers: Coordinates,
    images: Int[Tensor, " i"],
    rule: Quadrature,
    rows: int,
    window: float = 0.4,
) -> Found:
    """Spectral IG: components of the difference enter one after the other, the largest first.

    With the singular value decomposition ``D = Σ_k σ_k a_k b_kᵀ`` of the difference between the ends, component k has
    entered by the share ``clip((α − (1 − w)(1 − σ_k / σ_1)) / w, 0, 1)`` at α. D is the matrix of codes [P, K] of
    concepts; of pixels it has a row for each row of the image, its columns and colours side by side. As many model
    calls as the straight path.

    Args:
        problem: segment, clean activations and targets.
        source: its ends are those of the path.
        numbers: its coordinates, of all images.
        images: which of them.
        rule: nodes and weights.
        rows: points of the path in a pass.
        window: w, the share of the path over which a component enters; 1 is the straight path.
    """
    spectrum = _Spectrum(numbers, problem.layout.grid if numbers.kind is SourceKind.pixels else None, window)
    nodes, weights = nodes_of(rule, source.curve)
    edges_of_cells = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
    edges_of_cells[-1] = 1
    present, first = problem.targets.present[images], images.tolist()
    sums: dict[tuple[int, int], Tensor] = {}
    for piece in pieces(*problem[:2], spectrum, *problem[2:], nodes, rows, images):
        begin, stop = piece.stretch.start, piece.stretch.stop
        cells = edges_of_cells[begin : stop + 1]
        for row, gradient in zip(range(piece.images.start, piece.images.stop), piece.gradient, strict=True):
            more = spectrum.parts(first[row], cells, gradient)
            at = row, piece.target
            sums[at] = sums[at] + more if at in sums else more
    edges = Edges(numbers.end.new_zeros(*present.shape, numbers.units), numbers.end.new_zeros(present.shape))
    for (row, target), total in sums.items():
        units, error = spectrum.edges(first[row], total)
        edges.units[row, target], edges.error[row, target] = units, error
    edges = Edges(edges.units * present[..., None], edges.error * present)
    return _between(problem, source, images, rows, edges)


def _between(problem: Problem, source: Source, images: Int[Tensor, " i"], rows: int, edges: Edges) -> Found:
    at_ends = [part[images] for part in ends(*problem[:2], source.curve, *problem[2:], rows)]
    check_finite(images, edges.units, *at_ends)
    return Found(edges, *at_ends)


class _Spectrum:
    """The path of :func:`spectral_ig`, image by image.

    Concepts are summed over positions, so with A = (a_k) it is enough to keep ``M = Σ_s Δ_s ∘ (Aᵀ G_s)`` [K, C], Δ_s
    how far each component enters in cell s: edges are ``Σ_k b_kq σ_k <M_k, v_q>``, which costs little more than a sum
    of gradients. The number of what concepts miss is read by one more channel, the gradient along it.
    """

    def __init__(self, numbers: Coordinates, grid: tuple[int, int] | None, window: float) -> None:
        self.numbers, self.grid, self.window = numbers, grid, window
        self.each = [self._decomposed(image) for image in range(len(numbers.end))]

    def _matrix(self, part: Float[Tensor, "p n"]) -> Float[Tensor, "h w"]:
        return part if self.grid is None else part.reshape(self.grid[0], -1)

    def _decomposed(self, image: int) -> tuple[Tensor, Tensor, Tensor]:
        """a_k, σ_k b_kᵀ, and how late a component enters, ``1 − σ_k / σ_1``.

        From the Gram matrix of the shorter side; a product with D gives the other side, which makes the ends exact.
        """
        matrix = self._matrix(self.numbers.end[image] - self.numbers.start[image])
        wide = matrix.shape[0] < matrix.shape[1]
        gram = (matrix @ matrix.T if wide else matrix.T @ matrix).double()
        squares, vectors = torch.linalg.eigh(gram)
        sizes, vectors = squares.clamp(min=0).sqrt().flip(0).to(matrix), vectors.flip(1).to(matrix)
        left, right = (vectors, vectors.T @ matrix) if wide else (matrix @ vectors, vectors.T)
        late = 1 - sizes / sizes[0] if sizes[0] > 0 else torch.zeros_like(sizes)
        return left, right, late

    def entered(self, image: int, alpha: Float[Tensor, " s"]) -> Float[Tensor, "s k"]:
        """The share of each component that there is at α."""
        late = self.each[image][2]
        return ((alpha[:, None] - (1 - self.window) * late) / self.window).clamp(0, 1)

    def points(self, image: Int[Tensor, " b"], alpha: Float[Tensor, " s"]) -> Float[Tensor, "b s p c"]:
        """The path at α, as a curve's."""
        return torch.stack([self._points(one, alpha) for one in image.tolist()])

    def _points(self, image: int, alpha: Float[Tensor, " s"]) -> Float[Tensor, "s p c"]:
        numbers, (left, right, _) = self.numbers, self.each[image]
        entered, own = self.entered(image, alpha), torch.tensor([image], device=alpha.device)
        start = numbers.vectors(numbers.start[own], own)
        if numbers.atoms is None:
            moved = (left * entered[:, None]) @ right
            return start + moved.reshape(len(alpha), *numbers.end.shape[1:])
        count = len(numbers.atoms)
        found = start + (left * entered[:, None]) @ (right[:, :count] @ numbers.atoms)
        if numbers.missed is not None:
            found = found + ((left * entered[:, None]) @ right[:, count:]) * numbers.missed[own]
        return found

    def parts(self, image: int, cells: Float[Tensor, " s1"], gradient: Float[Tensor, "s p c"]) -> Tensor:
        """What the gradients of some nodes add to an image's sums."""
        numbers, (left, right, _) = self.numbers, self.each[image]
        more = self.entered(image, cells).diff(dim=0)
        if numbers.atoms is None:
            flat = self._grid(gradient)
            return (((left * more[:, None]) @ right) * flat).sum(0)
        if numbers.missed is not None:
            along = (gradient * numbers.missed[image]).sum(2, keepdim=True)
            gradient = torch.cat([gradient, along], 2)
        return torch.einsum("sk,skc->kc", more, left.T @ gradient)

    def _grid(self, gradient: Float[Tensor, "s p c"]) -> Float[Tensor, "s h w"]:
        return gradient if self.grid is None else gradient.reshape(len(gradient), self.grid[0], -1)

    def edges(self, image: int, total: Tensor) -> Edges:
        """An image's edges from its sums."""
        numbers, (_, right, _) = self.numbers, self.each[image]
        if numbers.atoms is None:
            return numbers.edges(total.reshape(numbers.end.shape[1:]))
        count, channels = numbers.atoms.shape
        units = ((right[:, :count].T @ total[:, :channels]) * numbers.atoms).sum(1)
        error = (right[:, count:].T @ total[:, channels:]).sum() if numbers.missed is not None else units.new_zeros(())
        return Edges(units, error)


def manifold_ig(
    problem: Problem,
    source: Source,
    numbers: Coordinates,
    images: Int[Tensor, " i"],
    steps: int,
    rows: int,
    decoder: Decoder,
    iterations: int = 20,
) -> Found:
    """Manifold IG (Zaher et al. 2024): along the shortest decoded path between the latent vectors of the two ends.

    ``φ = Σ_s (x_{s+1} − x_s) ∘ ∂g((x_s + x_{s+1}) / 2)``, a line integral along the polygon of decoded points x_s. Its
    energy ``Σ_s ‖x_{s+1} − x_s‖²`` is made small by ``iterations`` rounds of L-BFGS over the latent points between the
    ends. What the decoder misses of an end is added in proportion to the way, so that ends are exact; of the energy
    this adds what no latent point changes, so that the path is the shortest also with it. (The authors' code multiplies
    the mean gradient by the difference of the ends, which on a curve is no line integral.)

    Args:
        problem, source, numbers, images, rows: see :func:`spectral_ig`.
        steps: S, the polygon's sides.
        decoder: the manifold.
        iterations: rounds of L-BFGS; 0: the straight way in latent space.
    """
    polygon = _Polygon(numbers, decoder, images, steps, iterations)
    nodes = torch.arange(steps).to(numbers.end).add(0.5) / steps
    present, first = problem.targets.present[images], images.tolist()
    edges = Edges(numbers.end.new_zeros(*present.shape, numbers.units), numbers.end.new_zeros(present.shape))
    for piece in pieces(*problem[:2], polygon, *problem[2:], nodes, rows, images):
        for row, gradient in zip(range(piece.images.start, piece.images.stop), piece.gradient, strict=True):
            own = images[row].expand(len(gradient))
            sides = polygon.corners[first[row]].diff(dim=0)[piece.stretch]
            units, error = numbers.edges((sides * numbers.slopes(gradient, own)).sum(0))
            edges.units[row, piece.target] += units
            edges.error[row, piece.target] += error
    edges = Edges(edges.units * present[..., None], edges.error * present)
    return _between(problem, source, images, rows, edges)


class _Polygon:
    """Corners of each image's path [S + 1, P, N]."""

    def __init__(
        self, numbers: Coordinates, decoder: Decoder, images: Int[Tensor, " i"], steps: int, iterations: int
    ) -> None:
        self.numbers, self.steps = numbers, steps
        self.corners = {
            image: geodesic(decoder, numbers.start[image], numbers.end[image], steps, iterations)
            for image in images.tolist()
        }

    def points(self, image: Int[Tensor, " b"], alpha: Float[Tensor, " s"]) -> Float[Tensor, "b s p c"]:
        """The middles of the sides that α are on, as a curve's points."""
        side = (alpha * self.steps).long()
        found = []
        for one in image:
            corners = self.corners[int(one)]
            middles = (corners[side] + corners[side + 1]) / 2
            found.append(self.numbers.vectors(middles, one.expand(len(side))))
        return torch.stack(found)


def geodesic(
    decoder: Decoder, start: Float[Tensor, "p n"], end: Float[Tensor, "p n"], steps: int, iterations: int
) -> Float[Tensor, "s1 p n"]:
    """Corners of the path of one image; see :func:`manifold_ig`."""
    with torch.no_grad():
        first, last = decoder.encode(torch.stack([start, end])).to(end)
    share = torch.arange(steps + 1).to(end)[:, None] / steps
    latent = first + share * (last - first)
    inner = latent[1:-1].clone()

    def decoded(inner: Tensor) -> Tensor:
        return decoder.decode(torch.cat([latent[:1], inner, latent[-1:]]))

    if iterations and len(inner):
        inner.requires_grad_()
        search = torch.optim.LBFGS([inner], max_iter=iterations, line_search_fn="strong_wolfe")

        def energy() -> Tensor:
            search.zero_grad()
            with torch.enable_grad():
                found = decoded(inner).diff(dim=0).square().sum()
            (inner.grad,) = torch.autograd.grad(found, [inner])
            return found.detach()

        search.step(energy)  # type: ignore[arg-type]
    with torch.no_grad():
        corners = decoded(inner.detach()).to(end)
        if corners.shape[1:] != end.shape:
            raise UserError(
                f"attribute.options.decoder decodes to {list(corners.shape[1:])} numbers, but the source has "
                f"{list(end.shape)}: positions, then channels or concepts"
            )
        share = share[..., None]
        corners = corners + (1 - share) * (start - corners[0]) + share * (end - corners[-1])
        corners[0], corners[-1] = start, end
    return corners
