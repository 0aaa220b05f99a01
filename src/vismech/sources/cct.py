"""Compact convolutional transformers for 32-pixel images (Hassani et al. 2021, arXiv 2104.05704, §3.2–3.3).

Legend: B images, N tokens (rows of the grid first), C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention with one linear map for queries, keys and values."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C] → [B, N, C]."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    """Two linear maps with GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C] → [B, N, C]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each on the layer-normalised stream and added to it."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, N, C] → [B, N, C]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Cct(nn.Module):
    """Images [B, 3, 32, 32] → logits [B, classes], without a class token: the head pools the tokens by attention.

    The tokenizer is two 3×3 convolutions, each with ReLU and a 3×3 max-pool of stride 2 ("3x2"): 8 × 8 tokens.
    """

    def __init__(
        self, depth: int, channels: int = 128, heads: int = 2, mlp_ratio: float = 1, classes: int = 10
    ) -> None:
        super().__init__()
        self.tokenizer = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(64, channels, 3, 1, 1, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, 64, channels))
        self.embed = nn.Identity()  # names the tokens that block 0 reads
        self.blocks = nn.ModuleList(Block(channels, heads, int(mlp_ratio * channels)) for _ in range(depth))
        self.norm = nn.LayerNorm(channels)
        self.pool = nn.Linear(channels, 1)
        self.head = nn.Linear(channels, classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] → logits [B, classes]."""
        x = self.embed(self.tokenizer(x).flatten(2).transpose(1, 2) + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        share = self.pool(x).softmax(1)  # [B, N, 1]
        return self.head((share.transpose(1, 2) @ x).squeeze(1))


def cct_3_3x2(classes: int = 10) -> Cct:
    """CCT-2/3x2 with a third block: 128 channels, two heads, MLP ratio 1; 0.38 M parameters."""
    return Cct(3, classes=classes)
