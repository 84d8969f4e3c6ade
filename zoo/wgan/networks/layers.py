"""Normalisation of the generator, the critic's last layer, and first weights."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo.training.distributed import gather_with_grad, processes

Init = Literal["normal", "kaiming", "glorot"]
Activation = Literal["relu", "leaky_relu", "elu", "silu", "tanh", "softplus"]


def make_activation(name: Activation) -> nn.Module:
    """The activation; LeakyReLU has slope 0.1."""
    if name == "leaky_relu":
        return nn.LeakyReLU(0.1)
    kinds: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "elu": nn.ELU,
        "silu": nn.SiLU,
        "tanh": nn.Tanh,
        "softplus": nn.Softplus,
    }
    if name not in kinds:
        raise ValueError(f"critic_activation={name!r}: choose leaky_relu, {', '.join(kinds)}")
    return kinds[name]()


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batch of all processes, on any device.

    PyTorch's SyncBatchNorm refuses CPU tensors. Here each process computes its mean and variance,
    one collective gathers them, and they are combined (Chan et al. 1979); in float32.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if processes() == 1 or not self.training:
            return super().forward(input)
        x = input.float()
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        means, variances = gather_with_grad(torch.stack([mean, var])[None]).unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        if self.track_running_stats:
            self._track(mean, var, x.numel() // x.shape[1] * len(means))
        x = (x - mean[:, None, None]) * (var + self.eps).rsqrt()[:, None, None]
        if self.affine:
            x = x * self.weight[:, None, None] + self.bias[:, None, None]
        return x.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        self.num_batches_tracked += 1


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalisation with a gain and a bias for each class (arXiv 1610.07629)."""

    takes_labels = True

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.gain = nn.Embedding(num_classes, channels)
        self.bias = nn.Embedding(num_classes, channels)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W) and (B,) to (B, C, H, W)."""
        gain, bias = (e(labels)[:, :, None, None] for e in (self.gain, self.bias))
        return self.norm(x) * (1 + gain) + bias


class Blocks(nn.Sequential):
    """Layers in a row, of which the conditional ones get the labels too."""

    piecewise_linear = True  # if its layers are
    takes_labels = True

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Calls the layers in turn."""
        for layer in self:
            x = layer(x, labels) if getattr(layer, "takes_labels", False) else layer(x)
        return x


def batch_norm(channels: int, num_classes: int) -> nn.Module:
    """Batch normalisation, conditional if there are classes."""
    return ConditionalBatchNorm2d(channels, num_classes) if num_classes else BatchNorm2d(channels)


class Head(nn.Module):
    """The critic's last layer: <w, h> + b, and for classes + <v_y, h> (arXiv 1802.05637)."""

    piecewise_linear = True

    def __init__(self, features: int, num_classes: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1, bias=bias)
        self.projection = nn.Embedding(num_classes, features) if num_classes else None

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """(B, features) to (B,)."""
        out: Tensor = self.linear(h).squeeze(1)
        if self.projection is not None:
            out = out + (self.projection(labels) * h).sum(1)
        return out


def init_weights(network: nn.Module, init: Init) -> None:
    """First weights; biases are 0, and so are the deviations of conditional gains from 1.

    Args:
        network: Generator or critic.
        init: normal: N(0, 0.02^2), of DCGAN. kaiming: He's normal. glorot: uniform, with gain
            sqrt(2) in residual branches and 1 elsewhere, as SNGAN has it.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, ConditionalBatchNorm2d):
            nn.init.zeros_(layer.gain.weight)
            nn.init.zeros_(layer.bias.weight)
        elif isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            if init == "normal":
                nn.init.normal_(layer.weight, std=0.02)
            elif init == "kaiming":
                nn.init.kaiming_normal_(layer.weight)
            elif init == "glorot":
                nn.init.xavier_uniform_(layer.weight, gain=2**0.5 if "residual" in name else 1.0)
            else:
                raise ValueError(f"init={init!r}: choose normal, kaiming or glorot")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding) and "projection" in name:
            nn.init.xavier_uniform_(layer.weight)


def pool(x: Tensor, how: Literal["mean", "sum"]) -> Tensor:
    """Global pooling, (B, C, H, W) to (B, C)."""
    return x.mean((2, 3)) if how == "mean" else x.sum((2, 3))
