"""MADE as a LightningModule: pixels one after the other, each from those before it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo.training import log_every
from zoo.training.averages import Averages


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are 0 for good.

    Args:
        mask: Which weights there are, bool, (out, in).
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(LightningModule):
    """Masked autoencoder of images with an exact likelihood (arXiv 1502.03509).

    The pixels in reading order: p(x) is the product of p(x_i | x_1 ... x_{i-1}), and one pass of
    the network gives all factors, because no output sees its own pixel or a later one.

    Args:
        image_size: Side of a square image.
        levels: Grey levels of the data.
        hidden: Units of the hidden layer.
        lr: Learning rate.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(
        self, *, image_size: int = 8, levels: int = 17, hidden: int = 512, lr: float = 2e-3
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if min(image_size, levels - 1, hidden, lr) <= 0:
            raise ValueError(
                f"image_size={image_size}, levels={levels}, hidden={hidden}, lr={lr}: too small"
            )
        self.size, self.levels = image_size, levels
        pixels = torch.arange(image_size**2)
        # Unit h sees the pixels up to its number, and is seen by the outputs of later ones (eq. 8).
        unit = torch.arange(hidden) % max(len(pixels) - 1, 1)
        self.inner = MaskedLinear(unit[:, None] >= pixels)
        self.outer = MaskedLinear((pixels[:, None] > unit).repeat_interleave(levels, 0))
        self._validation, self._test = Averages("val/loss"), Averages("test/bits_per_dim")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, pixels, levels), each pixel given those before it, of images (B, 1, H, W)."""
        logits: Tensor = self.outer(F.relu(self.inner(x.flatten(1))))
        return logits.unflatten(1, (-1, self.levels))

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-likelihood log p(x) of images (B, 1, H, W) in [-1, 1], in nats, (B,)."""
        level = ((x.flatten(1) + 1) * (self.levels - 1) / 2).round().long()
        return -F.cross_entropy(self(x).mT, level, reduction="none").sum(1)

    def bits_per_dim(self, x: Tensor) -> Tensor:
        """The code length -log2 p(x) of each image a pixel, (B,)."""
        return -self.log_prob(x) / (x[0].numel() * torch.log(x.new_tensor(2.0)))

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Images (n, 1, H, W) in [-1, 1], pixel by pixel."""
        generator = torch.Generator(self.device).manual_seed(seed)
        x = torch.zeros(n, self.size**2, device=self.device)
        for i in range(x.shape[1]):
            p = self(x)[:, i].softmax(-1)
            x[:, i] = torch.multinomial(p, 1, generator=generator)[:, 0] * 2 / (self.levels - 1) - 1
        return x.reshape(n, 1, self.size, self.size)

    # Training

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Mean of -log p(x) of a batch (images, ...)."""
        loss = -self.log_prob(batch[0]).mean()
        log_every(self, {"train/loss": loss})
        return loss

    def configure_optimizers(self) -> Any:
        """Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])

    # Evaluation

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to val/loss."""
        self._validation.add({"val/loss": -self.log_prob(batch[0])})

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss."""
        self._validation.log(self, prog_bar=True)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to test/bits_per_dim."""
        self._test.add({"test/bits_per_dim": self.bits_per_dim(batch[0])})

    def on_test_epoch_end(self) -> None:
        """Logs test/bits_per_dim."""
        self._test.log(self)
