"""The U-Net of DDPM (arXiv 2006.11239, appendix B), laid out as diffusers' `UNet2DModel`."""

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.ddpm.blocks import (
    Attention,
    DownLevel,
    Downsample,
    MidLevel,
    ResBlock,
    TimestepEmbedding,
    UpLevel,
    Upsample,
)


def sinusoid_frequencies(width: int, freq_shift: int) -> Tensor:
    """f_i = 10000^(-i / (width/2 - freq_shift)) for i < width/2 (arXiv 1706.03762, 3.5).

    In float32, step by step as diffusers computes them: at t = 1000 one unit in the last place of
    f is an error of 6e-5 in the angle, which networks trained elsewhere would see.
    """
    exponent = -math.log(10000) * torch.arange(width // 2, dtype=torch.float32)
    return (exponent / (width // 2 - freq_shift)).exp()


def sinusoid(t_B: Tensor, frequencies: Tensor, *, cos_first: bool = False) -> Tensor:
    """Timestep embedding [sin(t f), cos(t f)], (B, 2 len(f)) in float32, or [cos, sin] (OpenAI)."""
    angle = t_B.float()[:, None] * frequencies
    parts = (angle.cos(), angle.sin()) if cos_first else (angle.sin(), angle.cos())
    return torch.cat(parts, dim=1)


class UNet(nn.Module):
    """Predicts the noise (or x0, or v, and a variance) of x_t.

    The state dict has the keys of diffusers' `UNet2DModel`, so weights go both ways. The defaults
    are Ho's CIFAR-10 network: 35,746,307 parameters.

    The decoder has one residual block a level more than `blocks`, and the middle always has
    attention. Of `num_classes` K, row K of the embedding is "no label".

    Args:
        in_channels: Channels of x_t.
        out_channels: Channels of the prediction; twice `in_channels` for a learned variance.
        width: This and all that follow: arguments of `DDPM`.

    Raises:
        ValueError: Widths, groups and heads that do not divide, or a level that does not exist.
    """

    frequency_bits: Tensor

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention_levels: Sequence[int] = (1,),
        dropout: float = 0.0,
        groups: int = 32,
        head_dim: int | None = None,
        num_classes: int = 0,
        norm_eps: float = 1e-6,
        freq_shift: int = 1,
        cos_first: bool = False,
        symmetric_downsample: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_layout(width, multipliers, blocks, attention_levels, groups, head_dim)
        self.levels = len(multipliers)
        self.num_classes = num_classes
        self.cos_first = cos_first
        dims = [width * m for m in multipliers]
        emb_dim = 4 * dims[0]

        def res(in_dim: int, out_dim: int) -> ResBlock:
            return ResBlock(in_dim, out_dim, emb_dim, dropout, groups, norm_eps)

        def attention(dim: int, count: int) -> list[Attention]:
            return [Attention(dim, head_dim, groups, norm_eps) for _ in range(count)]

        # Kept as integers, so that `.to(bfloat16)` leaves the frequencies exact.
        bits = sinusoid_frequencies(dims[0], freq_shift).view(torch.int32)
        self.register_buffer("frequency_bits", bits, persistent=False)
        self.time_embedding = TimestepEmbedding(dims[0], emb_dim)
        self.class_embedding = nn.Embedding(num_classes + 1, emb_dim) if num_classes else None

        self.conv_in = nn.Conv2d(in_channels, dims[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        skips = [dims[0]]
        for i, dim in enumerate(dims):
            resnets = [res(skips[-1] if j == 0 else dim, dim) for j in range(blocks)]
            attentions = attention(dim, blocks if i in attention_levels else 0)
            down = Downsample(dim, symmetric_downsample) if i < self.levels - 1 else None
            self.down_blocks.append(DownLevel(resnets, attentions, down, checkpointing))
            skips += [dim] * (blocks + (down is not None))

        dim = dims[-1]
        self.mid_block = MidLevel([res(dim, dim), res(dim, dim)], attention(dim, 1), checkpointing)

        self.up_blocks = nn.ModuleList()
        for i in reversed(range(self.levels)):
            inputs, dim = [dim] + [dims[i]] * blocks, dims[i]
            resnets = [res(h + skips.pop(), dim) for h in inputs]
            attentions = attention(dim, blocks + 1 if i in attention_levels else 0)
            up = Upsample(dim) if i > 0 else None
            self.up_blocks.append(UpLevel(resnets, attentions, up, checkpointing))
        assert not skips

        self.conv_norm_out = nn.GroupNorm(groups, dim, norm_eps)
        self.conv_out = nn.Conv2d(dim, out_channels, 3, padding=1)

    def check_size(self, height: int, width: int) -> None:
        """Refuses images of sides that the levels cannot halve."""
        m = 2 ** (self.levels - 1)
        if min(height, width) < 1 or height % m or width % m:
            down = [max(s // m, 1) * m for s in (height, width)]
            up = [max(-(-s // m), 1) * m for s in (height, width)]
            fits = dict.fromkeys((f"{down[0]}x{down[1]}", f"{up[0]}x{up[1]}"))
            raise ValueError(
                f"images of {height}x{width} do not fit a U-Net of {self.levels} levels: height "
                f"and width must be multiples of {m}, for example {' or '.join(fits)}"
            )

    def embed(self, t_B: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """The conditioning (B, E), through the silu that every residual block would apply to it."""
        wave = sinusoid(t_B, self.frequency_bits.view(torch.float32), cos_first=self.cos_first)
        emb: Tensor = self.time_embedding(wave.to(self.conv_in.weight.dtype))
        if self.class_embedding is not None:
            if labels_B is None:
                labels_B = torch.full_like(t_B, self.num_classes, dtype=torch.long)
            emb = emb + self.class_embedding(labels_B)
        elif labels_B is not None:
            raise ValueError("labels were given to a U-Net without classes: set num_classes")
        return F.silu(emb)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """The prediction for x_t, (B, out_channels, H, W).

        Args:
            x_BCHW: x_t.
            t_B: Timesteps, 0-based; real numbers are allowed.
            labels_B: Classes 0..K-1, or K for none; None is none for the whole batch.
        """
        self.check_size(x_BCHW.shape[2], x_BCHW.shape[3])
        emb = self.embed(t_B, labels_B)
        h = self.conv_in(x_BCHW)
        skips = [h]
        for level in self.down_blocks:
            skips += level(skips[-1], emb)
        h = self.mid_block(skips[-1], emb)
        for level in self.up_blocks:
            h = level(h, emb, skips)
        return self.conv_out(F.silu(self.conv_norm_out(h)))

    @torch.no_grad()
    def init_ho(self) -> None:
        """Ho's initialisation: Xavier-uniform weights, zero biases, and nearly zero last layers.

        The second convolution of every residual block, the output of every attention and the last
        convolution have variance 1e-10 times Xavier's, so that the network starts as (almost) the
        zero function. The class embedding keeps PyTorch's N(0, 1).
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                last = name.endswith(("conv2", "to_out.0")) or name == "conv_out"
                nn.init.xavier_uniform_(module.weight, gain=1e-5 if last else 1.0)
                assert module.bias is not None
                nn.init.zeros_(module.bias)


def _check_layout(
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    attention_levels: Sequence[int],
    groups: int,
    head_dim: int | None,
) -> None:
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers={list(multipliers)}: give one or more positive numbers")
    if blocks < 1:
        raise ValueError(f"blocks={blocks}: must be at least 1")
    dims = [width * m for m in multipliers]
    for dim in dims:
        if groups < 1 or dim < 1 or dim % groups:
            raise ValueError(f"groups={groups}: does not divide a level's {dim} channels")
    if dims[0] < 4 or dims[0] % 2:
        raise ValueError(
            f"width={width}, multipliers={list(multipliers)}: the first level's {dims[0]} channels "
            "must be even and at least 4"
        )
    missing = [i for i in attention_levels if not 0 <= i < len(multipliers)]
    if missing:
        raise ValueError(
            f"attention_levels={list(attention_levels)}: {missing} do not exist, there are levels "
            f"0 to {len(multipliers) - 1}"
        )
    if head_dim is not None:
        for dim in sorted({dims[i] for i in (*attention_levels, -1)}):
            if head_dim < 1 or dim % head_dim:
                raise ValueError(f"head_dim={head_dim}: does not divide a level's {dim} channels")


def unet_arguments(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `UNet` among those of `zoo.DDPM`; absent ones keep `UNet`'s defaults."""
    channels = hparams.get("channels", 3)
    outputs = channels * (2 if hparams.get("variance") == "learned_range" else 1)
    shared = {name: hparams[name] for name in signature(UNet).parameters if name in hparams}
    return {**shared, "in_channels": channels, "out_channels": outputs}
