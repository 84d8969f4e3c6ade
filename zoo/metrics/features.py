"""Feature extractors by name, each with the hash of its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.metrics.feature_net import FeatureNet
from zoo.untrusted import sha256

ASSETS = Path(__file__).parent / "assets"
FEATURE_NETS = ("digits-net", "mnist-net", "fashion-net", "cifar-net")
EXTRACTORS = (*FEATURE_NETS, "inception")


@dataclass(kw_only=True)
class Extractor:
    """Turns uint8 images into features.

    Not an nn.Module, so that it can never become part of a model or its checkpoint.

    Attributes:
        name: Its name in `EXTRACTORS`.
        sha256: Hash of its weights' file.
        channels: Channels of the images it takes.
        size: Height and width that it works at.
        resize: How images of another size are brought to it.
        network: uint8 (B, C, H, W) to features (B, d).
        device: Where it computes.
    """

    name: str
    sha256: str
    channels: int
    size: tuple[int, int]
    resize: str
    network: Callable[[Tensor], Tensor]
    device: torch.device

    @torch.no_grad()
    def __call__(self, images_NCHW: Tensor, batch_size: int = 256) -> Tensor:
        """The features of uint8 images, float32 (N, d) on `device`, so many images at a time."""
        assert images_NCHW.dtype == torch.uint8
        self.check_channels(images_NCHW.shape[1])
        parts = images_NCHW.split(batch_size)  # type: ignore[no-untyped-call]
        return torch.cat([self.network(part.to(self.device)).float() for part in parts])

    def check_channels(self, channels: int) -> None:
        """Refuses images that the network was not made for."""
        if channels != self.channels:
            grey, colour = "digits-net, mnist-net or fashion-net", "cifar-net or inception"
            fits = grey if channels == 1 else colour
            raise ValueError(
                f"the extractor {self.name} takes images with {self.channels} channel"
                f"{'s' * (self.channels > 1)}, these have {channels}: use {fits}"
            )


def load_feature_net(path: Path) -> tuple[FeatureNet, dict[str, str]]:
    """A net that `zoo.metrics.train_features` has written, and what is known about it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about: dict[str, str] = file.metadata()
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        net = FeatureNet(
            channels=int(about["channels"]),
            widths=[int(width) for width in about["widths"].split(",")],
            num_classes=int(about["num_classes"]),
        )
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        net.load_state_dict(state)
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is no feature net that zoo.metrics.train_features has written"
        ) from error
    return net.eval().requires_grad_(False), about


def check_extractor(name: str) -> None:
    """Raises ValueError if there is no extractor of this name."""
    if name not in EXTRACTORS and not name.endswith(".safetensors"):
        raise ValueError(
            f"no extractor {name!r}: choose one of {', '.join(EXTRACTORS)}, or a .safetensors"
        )


def load_extractor(
    name: str, *, weights: str | None = None, device: torch.device | str = "cpu"
) -> Extractor:
    """An extractor by name.

    Args:
        name: digits-net, mnist-net, fashion-net, cifar-net: small classifiers that the package
            ships (cifar-net was trained on JPEG-compressed CIFAR-10); a .safetensors file that
            `zoo.metrics.train_features` has written; inception: the network of the published FID,
            from a file that you supply.
        weights: For inception only: its file, or a folder that holds it.
        device: Where it computes.

    Raises:
        ValueError: There is no such extractor, or `weights` does not belong to it.
        FileNotFoundError: The weights of inception are not there.
        ImportError: torch-fidelity, which has the network of inception, is not installed.
    """
    device = torch.device(device)
    if name == "inception":
        from zoo.metrics.inception import load_inception

        inception, digest = load_inception(weights, device)
        return Extractor(
            name=name,
            sha256=digest,
            channels=3,
            size=(299, 299),
            resize="bilinear as in TensorFlow 1",
            network=inception,
            device=device,
        )
    check_extractor(name)
    own = name.endswith(".safetensors")
    if weights is not None:
        raise ValueError(f"{name} comes with its weights: leave out weights={weights!r}")

    path = Path(name) if own else ASSETS / f"{name}.safetensors"
    net, about = load_feature_net(path)
    net.to(device)
    height, width = (int(side) for side in about["size"].split(","))

    def network(images: Tensor) -> Tensor:
        x = images.float().div_(127.5).sub_(1)
        if x.shape[2:] != (height, width):
            x = F.interpolate(x, (height, width), mode="bilinear", antialias=True)
        return net.features(x)

    return Extractor(
        name=name,
        sha256=sha256(path),
        channels=int(about["channels"]),
        size=(height, width),
        resize="bilinear with antialiasing",
        network=network,
        device=device,
    )
