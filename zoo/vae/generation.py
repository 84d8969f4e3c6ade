"""What a trained model shows: samples, reconstructions, ways between codes, its manifold."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.layers.counter_rng import normal, uniform
from zoo.training.module import evaluating
from zoo.vae.image_vae import ImageVAE

Pixels = Literal["mean", "draw"]
Kind = Literal["prior", "reconstructions", "interpolation", "traversals", "manifold"]

_CODE, _PIXELS = 0, 1  # streams of a sample
_CHUNK = 512  # codes decoded at a time


class Generation(ImageVAE):
    """Images out of a model: means of p(x|z), in [-1, 1].

    >>> import zoo
    >>> model = zoo.VAE(image_size=8, latent_dim=2, hidden=[16])
    >>> model.interpolate(model.sample(1), model.sample(1, seed=1), steps=5).shape
    torch.Size([1, 5, 1, 8, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions in [-1, 1] of images (B, C, H, W), by the centres of their posteriors."""
        return self.reconstruct(x)

    def prior_sample(self, noise: Tensor) -> Tensor:
        """Codes from the prior by standard normal noise, both (n, d)."""
        return self.head.prior(noise)

    def images_of(self, z: Tensor) -> Tensor:
        """Mean images (..., C, H, W) of codes (..., d)."""
        with evaluating(self, precise=True):
            flat = z.to(next(self.parameters())).reshape(-1, z.shape[-1])
            parts = [self.likelihood.mean(self.decode(part)) for part in torch.split(flat, _CHUNK)]
        images = torch.cat(parts)
        return images.reshape(*z.shape[:-1], *images.shape[1:])

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        index: Tensor | None = None,
        pixels: Pixels = "mean",
    ) -> Tensor:
        """Images of codes from the prior.

        A sample is a function of (seed, its number): `sample(64)` is `sample(32)` and
        `sample(32, first=32)`.

        Args:
            n: How many.
            seed: Seed of the noise.
            first: Number of the first sample.
            index: Numbers of the samples, int64 (n,), if they are not first, first + 1, ...
            pixels: mean of p(x|z), which is what papers show, or a draw from it.

        Returns:
            float32 in [-1, 1], (n, C, H, W).

        Raises:
            ValueError: n is not positive, or pixels is neither.
        """
        if n < 1:
            raise ValueError(f"n={n}: draw at least one sample")
        if pixels not in ("mean", "draw"):
            raise ValueError(f"pixels={pixels!r}: choose mean or draw")
        if index is None:
            index = torch.arange(first, first + n, device=self.device)
        z = self.prior_sample(normal(seed, index, _CODE, (self.latent_dim,)))
        if pixels == "mean":
            return self.images_of(z)
        with evaluating(self, precise=True):
            decoded = self.decode(z.to(self.dtype))
            return self.likelihood.draw(decoded, uniform(seed, index, _PIXELS, self.shape))

    def encode(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """The likeliest code (B, d) of each image (B, C, H, W); `index` as for `prepare`."""
        x, index = self._placed(x, index)
        with evaluating(self, precise=True):
            return self.posterior(self.prepare(x, index)).mode

    def reconstruct(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Mean images of the likeliest codes of images (B, C, H, W), of the same shape."""
        return self.images_of(self.encode(x, index))

    def interpolate(self, x_a: Tensor, x_b: Tensor, steps: int = 11) -> Tensor:
        """Images on the way from images x_a to x_b (B, C, H, W), both ends included.

        Codes go along great circles: of each sphere, or for Gaussian codes with lengths in a line.

        Returns:
            (B, steps, C, H, W).
        """
        codes = [torch.split(self.encode(x), self.head.blocks, dim=-1) for x in (x_a, x_b)]
        t = torch.linspace(0, 1, steps, device=self.device)
        z = torch.cat([slerp(a, b, t) for a, b in zip(*codes, strict=True)], dim=-1)
        return self.images_of(z.transpose(0, 1))

    def traverse(self, z: Tensor, steps: int = 11) -> Tensor:
        """Images when one coordinate of a code (d,) moves.

        A Gaussian code's coordinate goes from -3 to 3. On a sphere the code goes along the great
        circle through it towards that axis, from a quarter before it to a quarter behind.

        Returns:
            (d, steps, C, H, W).
        """
        z = z.to(next(self.parameters()))
        if z.shape != (self.latent_dim,):
            raise ValueError(
                f"a code of shape {tuple(z.shape)}: this model's are ({self.latent_dim},)"
            )
        if self.head.space == "euclidean":
            moved = z.repeat(len(z), steps, 1)
            values = torch.linspace(-3, 3, steps, device=z.device)
            moved.diagonal(dim1=0, dim2=2).copy_(values[:, None].expand(-1, len(z)))
            return self.images_of(moved)
        paths, start = [], 0
        t = torch.linspace(-math.pi / 2, math.pi / 2, steps, device=z.device)[:, None]
        for size in self.head.blocks:
            here = z[start : start + size]
            towards = torch.eye(size, device=z.device) - here[:, None] * here[None, :]
            for direction in F.normalize(towards, dim=1):
                moved = z.repeat(steps, 1)
                moved[:, start : start + size] = t.cos() * here + t.sin() * direction
                paths.append(moved)
            start += size
        return self.images_of(torch.stack(paths))

    def manifold(self, rows: int = 16, columns: int = 16) -> Tensor:
        """Images over the whole latent space, each standing for as much of the prior.

        The plane at the prior's quantiles (arXiv 1312.6114, figure 4); the sphere in R^3 by
        latitude, north above, and longitude, on an equal-area map; the circle, which is one row.

        Returns:
            (rows, columns, C, H, W).

        Raises:
            ValueError: The latent space is none of these.
        """
        blocks, space = list(self.head.blocks), self.head.space
        if space == "euclidean" and blocks == [2]:
            return self.plane(0, 1, rows, columns)
        if space == "sphere" and blocks == [3]:
            return self.globe(rows, columns)
        if space == "sphere" and blocks == [2]:
            turn = 2 * math.pi * (torch.arange(columns, device=self.device) + 0.5) / columns
            z = torch.stack([turn.cos(), turn.sin()], dim=-1)[None]
            return self.images_of(z)
        raise ValueError(
            f"a manifold is drawn of 2 Gaussian dimensions or of one sphere in R^2 or R^3, and "
            f"this model has {space} codes of {'+'.join(map(str, blocks))}"
        )

    def globe(self, rows: int = 16, columns: int = 16) -> Tensor:
        """Images over the sphere of the first three axes of a code on spheres.

        By latitude, the third axis above, and longitude, on an equal-area map. On the other
        spheres of a product the code is their first axis.

        Returns:
            (rows, columns, C, H, W).

        Raises:
            ValueError: The first sphere is none in three or more dimensions.
        """
        blocks = list(self.head.blocks)
        if self.head.space != "sphere" or blocks[0] < 3:
            raise ValueError(
                f"a globe is drawn of a sphere in R^3 or more, and this model has "
                f"{self.head.space} codes of {'+'.join(map(str, blocks))}"
            )
        up = 1 - 2 * (torch.arange(rows, device=self.device)[:, None] + 0.5) / rows
        turn = 2 * math.pi * (torch.arange(columns, device=self.device) + 0.5) / columns
        flat = (1 - up.square()).sqrt()
        z = torch.zeros(rows, columns, sum(blocks), device=self.device)
        start = blocks[0]
        for block in blocks[1:]:
            z[..., start] = 1
            start += block
        z[..., 0], z[..., 1], z[..., 2] = flat * turn.cos(), flat * turn.sin(), up
        return self.images_of(z)

    def plane(self, i: int, j: int, rows: int = 16, columns: int = 16) -> Tensor:
        """Images over coordinates i and j of a Gaussian code, at quantiles; the others are 0.

        Coordinate i grows from left to right, and j upwards.

        Returns:
            (rows, columns, C, H, W).
        """
        z = torch.zeros(rows, columns, self.latent_dim, device=self.device)
        across = (torch.arange(columns, device=self.device) + 0.5) / columns
        down = (torch.arange(rows, device=self.device) + 0.5) / rows
        z[..., i] = torch.special.ndtri(across)
        z[..., j] = -torch.special.ndtri(down)[:, None]
        return self.images_of(z)

    def pictures(
        self,
        kind: Kind,
        *,
        n: int = 64,
        steps: int | None = None,
        seed: int = 0,
        images: Tensor | None = None,
    ) -> tuple[Tensor, int | None]:
        """A grid of one kind.

        Args:
            kind: prior; reconstructions: rows of images and of their reconstructions below them;
                interpolation: a row from one image to the next; traversals: a row a coordinate;
                manifold: all of a small latent space.
            n: Images in all, or for reconstructions and interpolation of the data.
            steps: Images on a path, or the manifold's side.
            seed: Seed of the prior's codes.
            images: Images in [-1, 1] to start from, (N, C, H, W); codes from the prior if not
                given.

        Returns:
            Images (N, C, H, W), and how many make a row; None for a square.

        Raises:
            ValueError: There is no such kind, or it needs images.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind={kind!r}: choose {', '.join(get_args(Kind))}")
        if kind == "prior":
            return self.sample(n, seed=seed), None
        if kind == "manifold":
            grid = self.manifold(steps or 16, steps or 16)
            return grid.flatten(0, 1), grid.shape[1]
        index = torch.arange(n, device=self.device)
        drawn = self.prior_sample(normal(seed, index, _CODE, (self.latent_dim,)))
        if kind == "traversals":
            z = drawn[0] if images is None else self.encode(images[:1])[0]
            path = self.traverse(z, steps or 11)
            return path.flatten(0, 1), path.shape[1]
        if images is None:
            images = self.images_of(drawn)
            if kind == "reconstructions":
                raise ValueError("reconstructions need images: give --data or a run's checkpoint")
        images = images[:n].to(self.device)
        if kind == "reconstructions":
            shown = self.prepare(images, torch.arange(len(images), device=self.device))
            columns = min(len(images), 16)
            both = (torch.split(part, columns) for part in (shown, self.reconstruct(images)))
            pairs = zip(*both, strict=True)
            rows = [torch.cat([_filled(part, columns) for part in pair]) for pair in pairs]
            return torch.cat(rows), columns
        if len(images) < 2:
            raise ValueError(f"n={n}: an interpolation has two ends")
        half = len(images) // 2
        path = self.interpolate(images[:half], images[half : 2 * half], steps or 11)
        return path.flatten(0, 1), path.shape[1]


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle from a to b (..., d) at t (T,), (T, ..., d); lengths go in a line.

    cos(t w) a + sin(t w) v with w the angle and v the direction of b orthogonal to a. Opposite
    points have no v: then it is orthogonal to a, towards its smallest coordinate.
    """
    lengths = [x.norm(dim=-1, keepdim=True) for x in (a, b)]
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    cosine = (a * b).sum(-1, keepdim=True)
    across = b - cosine * a
    angle = torch.atan2(across.norm(dim=-1, keepdim=True), cosine)
    axis = F.one_hot(a.abs().argmin(-1), a.shape[-1]).to(a.dtype)
    detour = axis - (a * axis).sum(-1, keepdim=True) * a
    across = torch.where(across.norm(dim=-1, keepdim=True) > 1e-6, across, detour)
    t = t.reshape(-1, *[1] * a.ndim)
    direction = (t * angle).cos() * a + (t * angle).sin() * F.normalize(across, dim=-1)
    length: Tensor = (1 - t) * lengths[0] + t * lengths[1]
    return length * direction


def _filled(row: Tensor, columns: int) -> Tensor:
    """A last row made whole with black."""
    return torch.cat([row, row.new_full((columns - len(row), *row.shape[1:]), -1.0)])
