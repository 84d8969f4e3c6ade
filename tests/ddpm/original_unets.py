"""The networks of pesser/pytorch_diffusion and openai/improved-diffusion, restated to test against.

Written from their description (names of tensors, order of operations), not from their code.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_wave(t: Tensor, dim: int, shift: int, cos_first: bool) -> Tensor:
    half = dim // 2
    f = torch.exp(-math.log(10000) * torch.arange(half).float() / (half - shift))
    angle = t.float()[:, None] * f[None]
    parts = [angle.cos(), angle.sin()] if cos_first else [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1)


class PesserBlock(nn.Module):
    def __init__(self, cin: int, cout: int, temb: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(32, cin, eps=1e-6)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.temb_proj = nn.Linear(temb, cout)
        self.norm2 = nn.GroupNorm(32, cout, eps=1e-6)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        if cin != cout:
            self.nin_shortcut = nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class PesserAttention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, c, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = self.norm(x)
        q, k, v = (f(h).reshape(b, c, -1) for f in (self.q, self.k, self.v))
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * c**-0.5, dim=2)
        h = torch.einsum("bij,bcj->bci", weights, v).reshape(b, c, height, width)
        return x + self.proj_out(h)


class Holder(nn.Module):
    """A module that only holds others, under the names that checkpoints have."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class PesserUNet(nn.Module):
    """pesser/pytorch_diffusion's Model, whose decoder is numbered by resolution."""

    def __init__(self, ch: int, mult: list[int], blocks: int, attention: list[int]) -> None:
        super().__init__()
        self.ch, self.blocks = ch, blocks
        temb = 4 * ch
        self.temb = Holder(dense=nn.ModuleList([nn.Linear(ch, temb), nn.Linear(temb, temb)]))
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.down, widths, cin = nn.ModuleList(), [ch], ch
        for i, m in enumerate(mult):
            level = Holder(block=nn.ModuleList(), attn=nn.ModuleList())
            for _ in range(blocks):
                level.block.append(PesserBlock(cin, ch * m, temb))
                cin = ch * m
                widths.append(cin)
                if i in attention:
                    level.attn.append(PesserAttention(cin))
            if i < len(mult) - 1:
                level.downsample = Holder(conv=nn.Conv2d(cin, cin, 3, stride=2))
                widths.append(cin)
            self.down.append(level)
        self.mid = Holder(
            block_1=PesserBlock(cin, cin, temb),
            attn_1=PesserAttention(cin),
            block_2=PesserBlock(cin, cin, temb),
        )
        ups = []
        for i in reversed(range(len(mult))):
            level = Holder(block=nn.ModuleList(), attn=nn.ModuleList())
            for _ in range(blocks + 1):
                level.block.append(PesserBlock(cin + widths.pop(), ch * mult[i], temb))
                cin = ch * mult[i]
                if i in attention:
                    level.attn.append(PesserAttention(cin))
            if i > 0:
                level.upsample = Holder(conv=nn.Conv2d(cin, cin, 3, padding=1))
            ups.insert(0, level)
        self.up = nn.ModuleList(ups)
        self.norm_out = nn.GroupNorm(32, cin, eps=1e-6)
        self.conv_out = nn.Conv2d(cin, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        wave = timestep_wave(t, self.ch, 1, cos_first=False)
        temb = self.temb.dense[1](F.silu(self.temb.dense[0](wave)))
        hs = [self.conv_in(x)]
        for level in self.down:
            for j, block in enumerate(level.block):
                h = block(hs[-1], temb)
                hs.append(level.attn[j](h) if len(level.attn) else h)
            if hasattr(level, "downsample"):
                hs.append(level.downsample.conv(F.pad(hs[-1], (0, 1, 0, 1))))
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(hs[-1], temb)), temb)
        for level in reversed(self.up):
            for j, block in enumerate(level.block):
                h = block(torch.cat([h, hs.pop()], dim=1), temb)
                h = level.attn[j](h) if len(level.attn) else h
            if hasattr(level, "upsample"):
                h = level.upsample.conv(h.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return self.conv_out(F.silu(self.norm_out(h)))


class OpenAIBlock(nn.Module):
    def __init__(self, cin: int, cout: int, emb: int, scale_shift: bool = False) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, cout * (1 + scale_shift)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, cout), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(cout, cout, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class OpenAIAttention(nn.Module):
    def __init__(self, c: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, c)
        self.qkv = nn.Conv1d(c, 3 * c, 1)
        self.proj_out = nn.Conv1d(c, c, 1)
        self.heads, self.new_order = heads, new_order

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        flat = x.reshape(b, c, -1)
        qkv = self.qkv(self.norm(flat))
        if self.new_order:
            q, k, v = (p.reshape(b * self.heads, -1, flat.shape[2]) for p in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(b * self.heads, -1, flat.shape[2]).chunk(3, dim=1)
        scale = (c // self.heads) ** -0.25
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
        h = torch.einsum("bts,bcs->bct", weights, v).reshape(b, c, -1)
        return (flat + self.proj_out(h)).reshape(b, c, height, width)


class OpenAIUNet(nn.Module):
    """openai/improved-diffusion's UNetModel, with its flat lists of blocks."""

    def __init__(
        self,
        ch: int,
        mult: list[int],
        blocks: int,
        attention: list[int],
        heads: int = 1,
        new_order: bool = False,
        out: int = 3,
        classes: int = 0,
        scale_shift: bool = False,
    ) -> None:
        super().__init__()
        self.ch, emb = ch, 4 * ch
        self.time_embed = nn.Sequential(nn.Linear(ch, emb), nn.SiLU(), nn.Linear(emb, emb))
        if classes:
            self.label_emb = nn.Embedding(classes, emb)

        def res(cin: int, cout: int) -> OpenAIBlock:
            return OpenAIBlock(cin, cout, emb, scale_shift)

        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, ch, 3, padding=1)])])
        widths, cin = [ch], ch
        for i, m in enumerate(mult):
            for _ in range(blocks):
                layers: list[nn.Module] = [res(cin, ch * m)]
                cin = ch * m
                if i in attention:
                    layers.append(OpenAIAttention(cin, heads, new_order))
                self.input_blocks.append(nn.ModuleList(layers))
                widths.append(cin)
            if i < len(mult) - 1:
                down = Holder(op=nn.Conv2d(cin, cin, 3, stride=2, padding=1))
                self.input_blocks.append(nn.ModuleList([down]))
                widths.append(cin)
        self.middle_block = nn.ModuleList(
            [res(cin, cin), OpenAIAttention(cin, heads, new_order), res(cin, cin)]
        )
        self.output_blocks = nn.ModuleList()
        for i in reversed(range(len(mult))):
            for j in range(blocks + 1):
                layers = [res(cin + widths.pop(), ch * mult[i])]
                cin = ch * mult[i]
                if i in attention:
                    layers.append(OpenAIAttention(cin, heads, new_order))
                if i > 0 and j == blocks:
                    layers.append(Holder(conv=nn.Conv2d(cin, cin, 3, padding=1)))
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(
            nn.GroupNorm(32, cin), nn.SiLU(), nn.Conv2d(cin, out, 3, padding=1)
        )

    def run(self, layers: nn.ModuleList, h: Tensor, emb: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, OpenAIBlock):
                h = layer(h, emb)
            elif hasattr(layer, "op"):
                h = layer.op(h)
            elif hasattr(layer, "conv"):
                h = layer.conv(F.interpolate(h, scale_factor=2, mode="nearest"))
            else:
                h = layer(h)
        return h

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.time_embed(timestep_wave(t, self.ch, 0, cos_first=True))
        if labels is not None:
            emb = emb + self.label_emb(labels)
        hs = []
        h = x
        for layers in self.input_blocks:
            h = self.run(layers, h, emb)
            hs.append(h)
        h = self.run(self.middle_block, h, emb)
        for layers in self.output_blocks:
            h = self.run(layers, torch.cat([h, hs.pop()], dim=1), emb)
        return self.out(h)
