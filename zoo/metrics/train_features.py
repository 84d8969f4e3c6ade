"""Trains one of the feature nets: `python -m zoo.metrics.train_features NAME --root DATA`."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data import MNIST, Digits, FashionMNIST, ImageData, ImageFolder
from zoo.data.images.pixels import coin_flips, to_float
from zoo.metrics.feature_net import FeatureNet
from zoo.metrics.features import ASSETS, FEATURE_NETS, load_feature_net


@dataclass(frozen=True)
class Recipe:
    """What a net is trained on, and how long."""

    data: str
    widths: tuple[int, ...]
    epochs: int
    batch_size: int
    flip: bool = False


RECIPES = {
    "digits-net": Recipe("scikit-learn digits, 1,257 training images", (32, 64), 60, 64),
    "mnist-net": Recipe("MNIST, 55,000 training images", (16, 32, 64), 4, 128),
    "fashion-net": Recipe("Fashion-MNIST, 55,000 training images", (16, 32, 64), 5, 128, True),
    "cifar-net": Recipe(
        "CIFAR-10 after lossy JPEG compression, nine tenths of the 50,000 training images",
        (32, 48, 96),
        7,
        128,
        True,
    ),
}


def open_data(name: str, root: str, recipe: Recipe, seed: int) -> ImageData:
    """The data set of a net."""
    if name == "digits-net":
        return Digits(batch_size=recipe.batch_size, seed=seed)
    if name == "cifar-net":
        return ImageFolder(root=root, size=32, batch_size=recipe.batch_size, seed=seed)
    kind = MNIST if name == "mnist-net" else FashionMNIST
    return kind(root=root, batch_size=recipe.batch_size, seed=seed)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """The batch moved by up to an eighth of its width and height, edges repeated."""
    height, width = images.shape[2:]
    dy, dx = height // 8, width // 8
    top, left = (int(torch.randint(2 * d + 1, (), generator=generator)) for d in (dy, dx))
    padded = F.pad(images, (dx, dx, dy, dy), mode="replicate")
    return padded[:, :, top : top + height, left : left + width]


def accuracy(net: FeatureNet, data: ImageData, split: str) -> float:
    """Share of a split's images whose class the net names."""
    net.eval()
    right = count = 0
    with torch.no_grad():
        for images, labels, _ in data.loader("val" if split == "val" else "test"):
            x = to_float(images, data.levels)
            right += int((net(x).argmax(1) == labels).sum())
            count += len(x)
    return right / count


def train(data: ImageData, recipe: Recipe, seed: int) -> FeatureNet:
    """AdamW with a one-cycle learning rate."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = FeatureNet(channels=data.channels, widths=recipe.widths, num_classes=data.num_classes)
    loader = data.train_dataloader()
    steps = recipe.epochs * len(loader)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    net.train()
    for epoch in range(recipe.epochs):
        loader.sampler.set_epoch(epoch)
        coins = coin_flips(seed, epoch, len(data.split("train")), "cpu").bool()
        losses = []
        for images, labels, index in loader:
            x = to_float(images, data.levels)
            if recipe.flip:
                x = torch.where(coins[index][:, None, None, None], x.flip(-1), x)
            loss = F.cross_entropy(net(shifted(x, generator)), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        print(f"epoch {epoch + 1}/{recipe.epochs}: loss {mean:.4f}", flush=True)
    return net


def save(net: FeatureNet, path: Path, about: dict[str, str]) -> None:
    """Writes the weights as float16, which halves the file, with what is known about them."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in net.state_dict().items()
    }
    save_file(state, path, about)
    path.chmod(0o644)  # safetensors leaves it readable by its owner only


def main(argv: list[str] | None = None) -> None:
    """Trains, writes the file, and prints the accuracy of what was written."""
    parser = argparse.ArgumentParser("python -m zoo.metrics.train_features", description=__doc__)
    parser.add_argument("name", choices=FEATURE_NETS)
    parser.add_argument(
        "--root", default="data", help="folder with MNIST/ or FashionMNIST/; cifar-net: a .zip"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file to write (default: the package's own)")
    args = parser.parse_args(argv)
    recipe = RECIPES[args.name]
    command = f"python -m zoo.metrics.train_features {args.name} --root DATA --seed {args.seed}"
    path: Path = args.out or ASSETS / f"{args.name}.safetensors"

    data = open_data(args.name, args.root, recipe, args.seed)
    data.setup()
    about = {
        "name": args.name,
        "data": recipe.data,
        "channels": str(data.channels),
        "size": ",".join(map(str, data.size)),
        "num_classes": str(data.num_classes),
        "widths": ",".join(map(str, recipe.widths)),
        "seed": str(args.seed),
        "command": command,
    }
    net = train(data, recipe, args.seed)
    save(net, path, about)
    written, _ = load_feature_net(path)
    scores = {f"{s}_accuracy": f"{accuracy(written, data, s):.4f}" for s in ("val", "test")}
    save(written, path, about | scores)
    print(f"{path}: {scores}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
