"""Small networks for tests, and plain forward passes; ``model.target=tiny:network`` opens :func:`network`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vismech.network.cut import HookedNetwork
from vismech.sources import cct


class Block(nn.Module):
    """A basic block of a ResNet with one in-place ReLU for both of its activations, as torchvision has it."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and channels == channels_in
        self.downsample = None if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += shortcut
        return self.relu(out)


class TinyNetwork(nn.Module):
    """Images [B, 3, 32, 32] → logits [B, classes]; maps of 32, 16, 8 and 4 pixels."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.layer1 = Block(width, width, 1)
        self.layer2 = Block(width, 2 * width, 2)
        self.layer3 = Block(2 * width, 2 * width, 2)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3)))


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """``module`` in eval mode, its parameters and running statistics drawn from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, scale: float, shift: float = 0.0) -> Tensor:
        return torch.randn(like.shape, generator=generator) * scale + shift

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                part.weight.copy_(draw(part.weight, (2 / part.weight[0].numel()) ** 0.5))
                if part.bias is not None:
                    part.bias.copy_(draw(part.bias, 0.1))
            if isinstance(part, nn.BatchNorm2d):
                part.weight.copy_(draw(part.weight, 0.2, 1.0))
                part.bias.copy_(draw(part.bias, 0.2))
                part.running_mean.copy_(draw(part.running_mean, 0.2))
                part.running_var.copy_(draw(part.running_var, 0.2).exp())
    return module.eval()


def network(classes: int = 3, width: int = 8) -> nn.Module:
    """A residual network with the same weights in every process."""
    return seeded(TinyNetwork(classes, width))


def undecided() -> nn.Module:
    """:func:`network` which gives each class to some of integration's pictures, most often a wrong one."""
    model = network()
    with torch.no_grad():
        model.head.bias += torch.tensor([2.6, -0.7, 0.7])
    return model


def from_file(path: str) -> nn.Module:
    """:func:`network` with weights that its factory looks for itself."""
    model = network()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def against_everything() -> nn.Module:
    """:func:`network` with logits of −1, to which no position adds anything."""
    model = network()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(-1.0)
    return model


class Gate(nn.Module):
    """Squeeze and excitation, which sharing ratios have no rule for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.excite = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(x.mean((2, 3), keepdim=True)))


def gated() -> nn.Module:
    """:func:`network` with a gate at the end of its second block."""
    model = TinyNetwork(3, 8)
    model.layer2 = nn.Sequential(model.layer2, Gate(16))
    return seeded(model)


class TinyTransformer(nn.Module):
    """Images [B, 3, 32, 32] → logits [B, classes]; a class token before 16 patch tokens, two blocks."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.linspace(-1, 1, width)[None, None])
        self.layer1, self.layer2 = cct.Block(width, 2, width), cct.Block(width, 2, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.layer2(self.layer1(x))[:, 0])


def attending() -> nn.Module:
    """A transformer with layers of the same names as :func:`network`'s."""
    return seeded(TinyTransformer(3, 8))


class ChannelNorm(nn.LayerNorm):
    """Layer norm of the channels of a map, as ConvNeXt has it: what it is given may be of any length."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def normed() -> nn.Module:
    """:func:`network` with a layer norm at the start of its second block."""
    model = TinyNetwork(3, 8)
    model.layer2 = nn.Sequential(ChannelNorm(8), model.layer2)
    return seeded(model)


def images(count: int, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def outputs(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Each module's output at the moment of its call, and the logits."""
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module, _inputs, output) -> None:
            if isinstance(output, Tensor):
                found[name] = output.detach().clone()

        return hook

    handles = [part.register_forward_hook(keep(name)) for name, part in model.named_modules() if name]
    with torch.no_grad():
        found["logits"] = model(batch)
    for handle in handles:
        handle.remove()
    return found


def same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def hooks(model: nn.Module) -> int:
    """Forward hooks on any part of ``model``."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def hooked(model: nn.Module, side: int = 32) -> HookedNetwork:
    return HookedNetwork(model, torch.zeros(1, 3, side, side))
