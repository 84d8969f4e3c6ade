"""Bits-back coding: a VAE as a lossless compressor whose code length is -ELBO.

Townsend, Bird, Barber 2019 (arXiv 1901.04866); the use of a density that kexue.fm/archives/8791
begins with. To put an image on the stack of an entropy coder: pop z by q(z|x), which gives back
-log q bits; push x by p(x|z); push z by p(z). On average that adds -ELBO. To take it off, the
inverse in reverse order. The first image pops random bits, which stay in the message.

z is cut into bins of equal prior mass, so the prior is uniform over bins. Decoding repeats every
probability to the last bit: both sides compute in float64, on one CPU thread, with the same batch
shape; then probabilities are rounded to integers, and all that follows is integer arithmetic.
"""

import copy
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.training.module import evaluating
from zoo.vae.coding.ans import Binned, Bits, Integers, Law, Message, Uniform
from zoo.vae.density.importance import default_chunk
from zoo.vae.density.refinement import fit
from zoo.vae.likelihoods import Bernoulli, DiscretizedLogistic
from zoo.vae.posteriors import GaussianPosterior

LATENT_BITS = 12  # bins of a latent number: 4096, the middle ones 0.0006 wide
_BIT_PRECISION = 18  # of a black or white pixel's probability
_PRECISION = 24  # of a bin's and a grey level's
_Slices = Callable[[slice], Law]


class Codec:
    """Images onto a `Message` and off it.

    >>> import zoo
    >>> codec = Codec(zoo.VAE(image_size=4, latent_dim=2, hidden=[8]), chains=2)
    >>> message, images = codec.message(), np.arange(32).reshape(2, 16) % 2
    >>> _ = codec.encode(message, images)
    >>> bool((codec.decode(message, rows=2) == images).all())
    True

    Args:
        model: A VAE with a Gaussian posterior and a Bernoulli or discretised logistic likelihood.
        chains: Images that are coded side by side, with one call of the model for all. Each chain
            begins with random bits of its own, about `LATENT_BITS` a latent number.
        heads: Pixels of an image that are coded side by side; each costs about 32 bits once.
        refine: Newton steps from the encoder's posterior to one of the image's own, with a full
            covariance, whose ELBO is higher; 0 for the encoder's. The decoder repeats them.

    Raises:
        ValueError: The model is none that can be coded.
    """

    def __init__(self, model: Any, *, chains: int = 1, heads: int = 16, refine: int = 0) -> None:
        likelihood = getattr(model, "likelihood", None)
        if not isinstance(likelihood, Bernoulli | DiscretizedLogistic):
            kind = type(likelihood).__name__ if likelihood is not None else type(model).__name__
            raise ValueError(
                f"{kind} cannot be compressed with: bits-back coding needs a VAE of images with "
                "likelihood bernoulli or discretized_logistic"
            )
        if chains < 1 or heads < 1:
            raise ValueError(f"chains={chains}, heads={heads}: both must be 1 or more")
        from scipy.special import ndtri  # scalar code, the same for a number wherever it stands

        self.model = copy.deepcopy(model).cpu().double().eval()
        self.shape: tuple[int, int, int] = tuple(model.shape)
        self.pixels = math.prod(self.shape)
        self.levels: int = 2 if isinstance(likelihood, Bernoulli) else likelihood.levels
        self.chains, self.heads, self.refine = chains, min(heads, self.pixels), refine
        bins = np.arange((1 << LATENT_BITS) + 1) / (1 << LATENT_BITS)
        self._edges: NDArray[np.float64] = ndtri(bins)
        self._centers: NDArray[np.float64] = ndtri(bins[:-1] + 0.5 / (1 << LATENT_BITS))
        with self._exactly():
            q = self.model.posterior(self._to_images(np.zeros((0, self.pixels), np.int64)))
        if not isinstance(q, GaussianPosterior):
            raise ValueError(
                f"{type(model).__name__} cannot be compressed with: bits-back coding needs a "
                "Gaussian posterior"
            )
        self.latent_dim = q.mean.shape[-1]

    def message(self, seed: int = 0) -> Message:
        """An empty message for this codec."""
        return Message((self.chains, self.heads), seed)

    def encode(self, message: Message, images: Integers) -> Tensor:
        """Pushes up to `chains` images, grey levels (rows, C H W).

        Returns:
            -log2 p(x|z) p(z) / q(z|x) of the z that were popped, (rows,): what the code length is
            but for rounding; in the mean -ELBO.
        """
        rows = len(images)
        with self._exactly():
            x = self._to_images(images)
            q = self._posterior(x)
            bins = np.zeros((rows, self.latent_dim), np.int64)
            self._pop(message, self._latents(q, bins), bins, self._together(q))
            z = self._to_codes(bins)
            output = self.model.decoder(z)
            ideal: Tensor = q.log_ratio(z) - self.model.likelihood.log_prob(x, output)
        self._push(message, self._pixels(output, rows), images, self.heads)
        self._push(message, _prior, bins, self.heads)
        return ideal[:rows] / math.log(2)

    def decode(self, message: Message, rows: int) -> Integers:
        """Pops the images that were pushed last, as many as they were then, (rows, C H W)."""
        bins = np.empty((rows, self.latent_dim), np.int64)
        images = np.empty((rows, self.pixels), np.int64)
        self._pop(message, _prior, bins, self.heads)
        with self._exactly():
            output = self.model.decoder(self._to_codes(bins))
            self._pop(message, self._pixels(output, rows), images, self.heads)
            q = self._posterior(self._to_images(images))
        self._push(message, self._latents(q, bins), bins, self._together(q))
        return images

    def check(self) -> int:
        """A number that another machine must come to as well, to decode what this one encoded."""
        grid = np.arange(self.chains * self.pixels).reshape(self.chains, self.pixels)
        images = grid * 7919 % self.levels
        codes = np.arange(self.chains * self.latent_dim).reshape(self.chains, self.latent_dim)
        bins = (codes * 1543 + 2048) % (1 << LATENT_BITS)
        with self._exactly():
            q = self._posterior(self._to_images(images))
            output = self.model.decoder(self._to_codes(bins))
        step, law = self._together(q), self._latents(q, bins)
        parts = [slice(i, i + step) for i in range(0, self.latent_dim, step)]
        columns = zip(*(law(part).interval(bins[:, part]) for part in parts), strict=True)
        intervals = [
            *(np.concatenate(column, axis=1) for column in columns),
            *self._pixels(output, self.chains)(slice(None)).interval(images),
        ]
        return zlib.crc32(b"".join(part.astype("<i8").tobytes() for part in intervals))

    # Numbers and their laws

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with evaluating(self.model, precise=True):
                yield
        finally:
            torch.set_num_threads(threads)

    def _to_images(self, levels: Integers) -> Tensor:
        """Always `chains` images in [-1, 1]: their number must not change what is computed."""
        x = np.zeros((self.chains, self.pixels))
        x[: len(levels)] = 2 / (self.levels - 1) * levels - 1
        return torch.from_numpy(x).view(-1, *self.shape)

    def _to_codes(self, bins: Integers) -> Tensor:
        z = np.zeros((self.chains, self.latent_dim))
        z[: len(bins)] = self._centers[bins]
        return torch.from_numpy(z)

    def _posterior(self, x: Tensor) -> "GaussianPosterior | Correlated":
        q: GaussianPosterior = self.model.posterior(x)
        if not self.refine:
            return q
        chunk = default_chunk(self.chains, self.pixels, x.device)
        return Correlated(*fit(self.model, x, q, q.chart(), steps=self.refine, chunk=chunk))

    def _together(self, q: "GaussianPosterior | Correlated") -> int:
        """How many latent numbers have laws that do not depend on one another."""
        return 1 if isinstance(q, Correlated) else self.heads

    def _latents(self, q: "GaussianPosterior | Correlated", bins: Integers) -> _Slices:
        """The laws of the latent numbers, some of them given bins that are known by then."""
        from scipy.special import ndtr, ndtri

        n, rows = 1 << LATENT_BITS, len(bins)

        def law(part: slice) -> Law:
            if isinstance(q, Correlated):
                m, s = q.given(part.start, self._centers[bins])
            else:
                m, s = q.mean[:rows, part].numpy(), q.log_std[:rows, part].exp().numpy()
            return Binned(
                lambda i: ndtr((self._edges[i] - m) / s),
                n,
                _PRECISION,
                inverse=lambda u: n * ndtr(m + s * ndtri(u)),
            )

        return law

    def _pixels(self, output: Tensor, rows: int) -> _Slices:
        from scipy.special import expit

        likelihood, n = self.model.likelihood, self.levels
        if isinstance(likelihood, Bernoulli):
            white = expit(output[:rows].flatten(1).numpy())
            one = 1 << _BIT_PRECISION
            frequency = np.rint(white * one).astype(np.int64).clip(1, one - 1)
            return lambda part: Bits(frequency[:, part], _BIT_PRECISION)
        mean, log_scale = likelihood._parameters_of(output[:rows])
        scale = log_scale.exp().expand_as(mean).flatten(1).numpy()
        mean = mean.flatten(1).numpy()
        edges = (2 * np.arange(n + 1) - 1) / (n - 1) - 1.0  # the lower end of each level's interval
        edges[0], edges[-1] = -math.inf, math.inf

        def law(part: slice) -> Law:
            m, s = mean[:, part], scale[:, part]
            return Binned(lambda i: expit((edges[i] - m) / s), n, _PRECISION)

        return law

    # Runs of symbols, `heads` at a time

    def _push(self, message: Message, law: _Slices, symbols: Integers, step: int) -> None:
        for first in range(0, symbols.shape[1], step):
            part = slice(first, first + step)
            symbol_law = law(part)
            message.push(*symbol_law.interval(symbols[:, part]), symbol_law.precision)

    def _pop(self, message: Message, law: _Slices, symbols: Integers, step: int) -> None:
        """Fills `symbols`, from the last on."""
        for first in reversed(range(0, symbols.shape[1], step)):
            part = slice(first, first + step)
            symbol_law = law(part)
            shape = symbols[:, part].shape
            symbols[:, part] = message.pop(shape, symbol_law.precision, symbol_law.find)


class Correlated:
    """N(mean, L L^T), whose numbers are coded from the last to the first, each given those after.

    >>> law = Correlated(torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]))
    >>> mean, std = law.given(0, np.array([[9.0, 0.5]]))  # z_0 = 1 + e_0 + z_1
    >>> mean.tolist(), std.tolist()
    ([[1.5]], [[1.0]])

    Args:
        mean: (B, d).
        factor: L, (B, d, d).
    """

    def __init__(self, mean: Tensor, factor: Tensor) -> None:
        inverse = torch.linalg.inv(factor)
        # Upper triangular; T (z - mean) is standard normal.
        self.whiten = torch.linalg.cholesky(inverse.mT @ inverse).mT.contiguous()
        self.mean = mean

    def given(self, i: int, z: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean and standard deviation of number i given those after it in z (rows, d)."""
        mean, row = self.mean[: len(z)].numpy(), self.whiten[: len(z), i].numpy()
        std = 1 / row[:, i : i + 1]
        after = (row[:, i + 1 :] * (z - mean)[:, i + 1 :]).sum(1, keepdims=True)
        return mean[:, i : i + 1] - after * std, std

    def log_ratio(self, z: Tensor) -> Tensor:
        """The log ratio log q(z|x) - log p(z) of z (B, d), (B,)."""
        e = (self.whiten @ (z - self.mean)[..., None])[..., 0]
        volume = self.whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        ratio: Tensor = 0.5 * (z.square() - e.square()).sum(-1) + volume
        return ratio


def _prior(part: slice) -> Law:
    return Uniform(LATENT_BITS)
