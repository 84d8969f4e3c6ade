"""What a VAE of images offers on a page: samples, its codes by hand, and densities of drawings."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from zoo.data.images.pixels import to_float
from zoo.layers.counter_rng import normal
from zoo.pages import IMAGES, SEED, Control, Number, Result, Sketch, Tab
from zoo.vae.density.pareto import UNRELIABLE
from zoo.vae.figures import Figures

_SLIDERS = 12  # coordinates of a Gaussian code
_GLOBE = 11  # images across
_DRAWS = 500  # with refined proposals


class Pages(Figures):
    """Samples, codes and densities."""

    def tabs(self) -> list[Tab]:
        """Samples, the code by hand, and a drawing."""
        sphere = self.head.space == "sphere"
        samples = {"n": IMAGES, "seed": SEED}
        drawing: dict[str, Control] = {
            "drawing": Sketch("Drawing", self.shape),
            "samples": Number("Importance samples", _DRAWS, 10, 5000),
        }
        results = [Result("images", "Drawn, and reconstructed", 2), Result("text", "Numbers", 4)]
        return [
            Tab("Code", *(self._globe() if sphere else self._sliders()), button=None),
            Tab("Samples", self._drawn, samples, [Result("images", "Images")]),
            Tab("Draw", self._judged, drawing, results, "Draw in the black field."),
        ]

    def _drawn(self, n: int, seed: int) -> tuple[Tensor]:
        return (self.sample(n, seed=seed),)

    def _sliders(self) -> tuple[Any, dict[str, Control], list[Result], str]:
        """A slider each for the coordinates that change most; the others stay at 0."""
        paths = self.traverse(torch.zeros(self.latent_dim))
        order = paths.var(1).flatten(1).mean(1).argsort(descending=True)[:_SLIDERS].tolist()
        controls: dict[str, Control] = {
            f"z{i + 1}": Number(f"z{i + 1}", 0, -3, 3, 0.05) for i in sorted(order)
        }

        def run(**values: float) -> tuple[Tensor]:
            z = torch.zeros(self.latent_dim)
            for name, value in values.items():
                z[int(name[1:]) - 1] = value
            return (self.images_of(z[None]),)

        most = f"The {len(order)} of {self.latent_dim} coordinates that change most, others at 0."
        note = most if len(order) < self.latent_dim else "Each coordinate of the code."
        return run, controls, [Result("images", "Image")], note

    def _globe(self) -> tuple[Any, dict[str, Control], list[Result], str]:
        """A globe to turn: the sphere, or a great one in it through a code of the prior."""
        blocks = list(self.head.blocks)
        controls: dict[str, Control] = {"east": Number("East, degrees", 0, -180, 180)}
        if max(blocks) > 2:
            controls["north"] = Number("North, degrees", 0, -90, 90)
        if len(blocks) > 1:
            controls["sphere"] = Number("Sphere", 1, 1, len(blocks))
        if max(blocks) > 3:
            controls["i"] = Number("Coordinate eastwards", 1, 1, max(blocks))
            controls["j"] = Number("Coordinate northwards", 2, 1, max(blocks))
        if blocks not in ([2], [3]):
            controls["seed"] = SEED
        results = [Result("images", "Image"), Result("images", "Globe around it", _GLOBE)]
        note = "The globe shows the half of the sphere around the image."
        if max(blocks) > 3:
            note = "A code of the prior, turned towards two of its coordinates." + f" {note}"
        return self._turned, controls, results, note

    def _turned(
        self, east: float, north: float = 0, sphere: int = 1, i: int = 2, j: int = 3, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The image there, and those around, of which what is behind the horizon is grey."""
        blocks = list(self.head.blocks)
        size, start = blocks[sphere - 1], sum(blocks[: sphere - 1])
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        code = self.prior_sample(normal(seed, first, 0, (self.latent_dim,)))[0].cpu()
        eye = torch.eye(size)
        if size < 4:  # the whole sphere, by its axes
            axes = eye
        elif i == j or max(i, j) > size:
            raise ValueError(f"coordinates {i} and {j}: choose two different ones of {size}")
        else:
            given = torch.stack([code[start : start + size], eye[i - 1], eye[j - 1]], 1)
            axes, signs = torch.linalg.qr(given)  # Gram and Schmidt, but for signs
            axes = (axes * signs.diagonal().sign()).T
        a, b = math.radians(east), math.radians(north)
        turn = torch.tensor(
            [
                [math.cos(b) * math.cos(a), math.cos(b) * math.sin(a), math.sin(b)],
                [-math.sin(a), math.cos(a), 0.0],
                [-math.sin(b) * math.cos(a), -math.sin(b) * math.sin(a), math.cos(b)],
            ]
        )
        side = torch.linspace(-1, 1, _GLOBE + 2)[1:-1]
        y, x = torch.meshgrid(-side, side, indexing="ij")
        if size == 2:
            turn, y, x = turn[:2, :2], torch.zeros(1, _GLOBE), side[None]
        height = 1 - x.square() - y.square()
        seen = torch.stack([height.clamp(min=0).sqrt(), x, y][: len(turn)], -1)
        codes = code.repeat(*height.shape, 1)
        codes[..., start : start + size] = seen @ turn @ axes
        images = self.images_of(codes)
        middle = images[len(images) // 2, _GLOBE // 2]
        images = images.where((height >= 0)[..., None, None, None].to(images.device), 0.0)
        return middle[None], images.flatten(0, 1)

    def _judged(self, drawing: NDArray[np.uint8], samples: int) -> tuple[Tensor, str]:
        """What the model makes of a drawing."""
        given = to_float(torch.from_numpy(drawing.copy()).permute(2, 0, 1)[None])
        small = F.interpolate(given, self.shape[1:], mode="area")
        small = small.mean(1, keepdim=True) if self.shape[0] == 1 else small
        first = torch.zeros(1, dtype=torch.long)
        x = self.prepare(small.clamp(-1, 1), first)
        found = self.log_density(x, samples=samples, index=first, prepared=True)
        made = self.reconstruct(small.clamp(-1, 1), first).cpu()
        error = (made - x).square().mean().sqrt() / 2
        value, spread, _, shape, _, bound = (float(column) for column in found)
        lines = [
            f"log p(x) = {value:.2f} ± {spread:.2f} nats by {samples} importance samples",
            f"evidence lower bound {bound:.2f} nats, error of a pixel {error:.3f} (0 to 1, r.m.s.)",
        ]
        if shape > UNRELIABLE:
            lines.append(f"Pareto k {shape:.2f}: neither value nor error can be relied on")
        if note := self.protocol().get("likelihood"):
            lines.append(f"p(x|z) is {note}")
        return torch.cat([x, made]), "\n".join(lines)
