"""The Inception network of the published FID, from weights that the user supplies."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.untrusted import sha256

# The same content under two names: as torch-fidelity and torchmetrics, and as pytorch-fid call it.
FILES = (
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
SHA256_PREFIX = "6726825d"


def find_weights(weights: str | None) -> Path:
    """The weights' file.

    Args:
        weights: The file, or a folder that holds it under one of its two published names; by
            default torch.hub's folder of checkpoints, where the libraries that use it keep it.

    Raises:
        FileNotFoundError: It is not there; says what to put where.
    """
    place = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints"
    if place.is_file():
        return place
    found = next((place / name for name in FILES if (place / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"no Inception weights at {place}: fetch {FILES[0]} (torch-fidelity's release v0.2.0) "
            f"or {FILES[1]} (pytorch-fid's release fid_weights) on a machine with a network, and "
            "put it there or give its path as weights"
        )
    return found


def load_inception(
    weights: str | None, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], str]:
    """torch-fidelity's port of the TensorFlow graph of 2015-12-05 that published FIDs use.

    uint8 images are resized to 299x299 as TensorFlow 1 did, and the 2,048 features of the last
    pooling are returned.

    Args:
        weights: As for `find_weights`.
        device: Where it computes.

    Returns:
        The network, uint8 (B, 3, H, W) to (B, 2048), and the hash of its file.

    Raises:
        FileNotFoundError: The weights are not there.
        ImportError: torch-fidelity is not installed.
        ValueError: The file is not the published one.
    """
    path = find_weights(weights)
    found = sha256(path)
    if not found.startswith(SHA256_PREFIX):
        raise ValueError(
            f"{path} is not the published Inception file (sha256 {found[:8]}..., expected "
            f"{SHA256_PREFIX}...): its FID would not be comparable; fetch {FILES[0]} again"
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError(
            "inception needs torch-fidelity: pip install lightning-model-zoo[inception]"
        ) from error

    # torch-fidelity would unpickle the file without restrictions: hand it a copy of the tensors.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    copy = io.BytesIO()
    torch.save(state, copy)
    copy.seek(0)
    net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=copy)
    net.to(device)
    return lambda images: net(images)[0], found
