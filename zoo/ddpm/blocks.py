"""The parts of the U-Net; attribute names are the state-dict keys of diffusers' `UNet2DModel`.

Shape suffixes: B batch, C channels, H and W of the level, N = H W, E the conditioning.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.layers.attention import attention


class TimestepEmbedding(nn.Module):
    """The MLP that turns a sinusoid (B, E/4) into the conditioning (B, E)."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Linear, silu, linear."""
        return self.linear_2(F.silu(self.linear_1(x)))


class ResBlock(nn.Module):
    """Two convolutions around the conditioning, with a residual (arXiv 2006.11239, appendix B)."""

    def __init__(
        self, in_dim: int, out_dim: int, emb_dim: int, dropout: float, groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_dim, eps)
        self.conv1 = nn.Conv2d(in_dim, out_dim, 3, padding=1)
        self.time_emb_proj = nn.Linear(emb_dim, out_dim)
        self.norm2 = nn.GroupNorm(groups, out_dim, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_dim, out_dim, 1) if in_dim != out_dim else None

    def forward(self, x: Tensor, emb_BE: Tensor) -> Tensor:
        """(B, in_dim, H, W) to (B, out_dim, H, W); `emb_BE` has gone through silu already."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(emb_BE)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Self-attention over the N = H W positions, with its norm and residual."""

    def __init__(self, dim: int, head_dim: int | None, groups: int, eps: float) -> None:
        super().__init__()
        self.heads = dim // (head_dim or dim)
        self.group_norm = nn.GroupNorm(groups, dim, eps)
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        # Once, not in each of the three products; in channels_last it lies so already.
        h_BNC = self.group_norm(x).flatten(2).transpose(1, 2).contiguous()
        q, k, v = (
            f(h_BNC).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for f in (self.to_q, self.to_k, self.to_v)
        )
        h_BNC = attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.to_out[0](h_BNC).transpose(1, 2).reshape(x.shape)
        return x + out


class Downsample(nn.Module):
    """3x3 convolution of stride 2; pads right and below only (TensorFlow's SAME), or all around."""

    def __init__(self, dim: int, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(dim, dim, 3, stride=2, padding=int(symmetric))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour to twice the size, then a 3x3 convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


ResBlocks = list[ResBlock]
Attentions = list[Attention]


class _Level(nn.Module):
    """Residual blocks, each followed by the attention of the same number if there is one.

    With `checkpointing`, what a pair computes is not kept but computed again in the backward pass.
    """

    def __init__(
        self, resnets: list[ResBlock], attentions: list[Attention], checkpointing: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)
        self.checkpointing = checkpointing

    def _pair(self, i: int, x: Tensor, emb_BE: Tensor) -> Tensor:
        x = self.resnets[i](x, emb_BE)
        return self.attentions[i](x) if i < len(self.attentions) else x

    def run(self, i: int, x: Tensor, emb_BE: Tensor) -> Tensor:
        """Pair i."""
        pair: Callable[..., Any] = self._pair
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(pair, i, x, emb_BE, use_reentrant=False)
        return self._pair(i, x, emb_BE)


class DownLevel(_Level):
    """One resolution of the encoder."""

    def __init__(
        self,
        resnets: ResBlocks,
        attentions: Attentions,
        down: Downsample | None,
        checkpointing: bool,
    ) -> None:
        super().__init__(resnets, attentions, checkpointing)
        self.downsamplers = nn.ModuleList([down] if down else [])

    def forward(self, x: Tensor, emb_BE: Tensor) -> list[Tensor]:
        """Every tensor that the decoder will want, the last being the input of the next level."""
        outputs = []
        for i in range(len(self.resnets)):
            x = self.run(i, x, emb_BE)
            outputs.append(x)
        outputs += [downsample(x) for downsample in self.downsamplers]
        return outputs


class MidLevel(_Level):
    """The lowest resolution, between encoder and decoder."""

    def forward(self, x: Tensor, emb_BE: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        for i in range(len(self.resnets)):
            x = self.run(i, x, emb_BE)
        return x


class UpLevel(_Level):
    """One resolution of the decoder."""

    def __init__(
        self, resnets: ResBlocks, attentions: Attentions, up: Upsample | None, checkpointing: bool
    ) -> None:
        super().__init__(resnets, attentions, checkpointing)
        self.upsamplers = nn.ModuleList([up] if up else [])

    def forward(self, x: Tensor, emb_BE: Tensor, skips: list[Tensor]) -> Tensor:
        """Takes one of `skips` off the end for every residual block."""
        for i in range(len(self.resnets)):
            x = self.run(i, torch.cat([x, skips.pop()], dim=1), emb_BE)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x
