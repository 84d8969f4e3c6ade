"""A training step of VAE, IWAE and the spherical VAE against pythae 0.1.2, in one run.

The same perceptrons with the same number of weights, the same binary images on the device, float32;
a step is forward, backward and Adam. pythae's modules are called without its trainer, with torch's
default Adam as that trainer has it, and with the fused Adam that zoo uses. All take turns; printed
are medians and the median and range of the rounds' ratios. Then the sampler and the density
benchmarks beside this file run, each in its own process.

    python benchmarks/vae.py [--quick] [--batch 128] [--device auto] [--threads N] [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ddpm import interleave, machine, summary
from torch import Tensor, nn

HIDDEN = [256, 128]
# Name: the zoo's class, its arguments, pythae's class, the numbers of a code.
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "vae": ("VAE", {"latent_dim": 40}, "VAE", 40),
    "iwae-50": ("VAE", {"latent_dim": 40, "objective": "iwae", "samples": 50}, "IWAE", 40),
    "svae-10": ("VMFVAE", {"spheres": [11]}, "SVAE", 11),
    "svae-40": ("VMFVAE", {"spheres": [41]}, "SVAE", 41),
}


def zoo_step(case: str, x: Tensor) -> tuple[nn.Module, Callable[[], Any]]:
    """The zoo's training step on images x (B, 784) of 0 and 1."""
    import zoo

    name, arguments, _, _ = CASES[case]
    model = getattr(zoo, name)(hidden=HIDDEN, binarization="threshold", **arguments).to(x.device)
    optimizer = model.configure_optimizers()
    images = (2 * x - 1).reshape(-1, 1, 28, 28)

    def step() -> None:
        optimizer.zero_grad()
        model.training_step((images,), 0).backward()
        optimizer.step()

    return model, step


def pythae_step(case: str, x: Tensor, fused: bool) -> tuple[nn.Module, Callable[[], Any]]:
    """pythae's, by its own module with perceptrons of the same sizes."""
    from pythae import models
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    _, arguments, name, dim = CASES[case]

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            BaseEncoder.__init__(self)
            self.layers = nn.Sequential(
                nn.Linear(784, HIDDEN[0]), nn.ReLU(), nn.Linear(HIDDEN[0], HIDDEN[1]), nn.ReLU()
            )
            self.first = nn.Linear(HIDDEN[1], dim)
            self.second = nn.Linear(HIDDEN[1], 1 if name == "SVAE" else dim)

        def forward(self, x: Tensor) -> Any:
            h = self.layers(x.reshape(len(x), -1))
            second = "log_concentration" if name == "SVAE" else "log_covariance"
            return ModelOutput(**{"embedding": self.first(h), second: self.second(h)})

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            BaseDecoder.__init__(self)
            self.layers = nn.Sequential(
                nn.Linear(dim, HIDDEN[1]), nn.ReLU(), nn.Linear(HIDDEN[1], HIDDEN[0]), nn.ReLU(),
                nn.Linear(HIDDEN[0], 784), nn.Sigmoid(),
            )  # fmt: skip

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z).reshape(-1, 1, 28, 28))

    options: dict[str, Any] = {"input_dim": (1, 28, 28), "latent_dim": dim}
    options["reconstruction_loss"] = "bce"
    if name == "IWAE":
        options["number_samples"] = arguments["samples"]
    config = getattr(models, f"{name}Config")(**options)
    model = getattr(models, name)(config, encoder=Encoder(), decoder=Decoder()).to(x.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    images = {"data": x.reshape(-1, 1, 28, 28)}

    def step() -> None:
        optimizer.zero_grad()
        model(images).loss.backward()
        optimizer.step()

    return model, step


def measure(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times of one case."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    x = (torch.rand(options.batch, 784, device=device) < 0.3).float()
    made = {
        "zoo": zoo_step(case, x),
        "pythae": pythae_step(case, x, fused=False),
        "pythae-fused": pythae_step(case, x, fused=True),
    }
    weights = {
        name: sum(p.numel() for p in model.parameters()) for name, (model, _) in made.items()
    }
    assert len(set(weights.values())) == 1, weights
    calls = {name: step for name, (_, step) in made.items()}
    times = interleave(calls, options.rounds, options.warm, device)
    return {"parameters": weights["zoo"], "contenders": summary(times, "zoo")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--warm", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--quick", action="store_true", help="15 rounds")
    parser.add_argument("--only", action="store_true", help="not the sampler and the density")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.quick:
        options.rounds, options.warm = 15, 3
    print(f"{machine(options.device)}; batch {options.batch}, {options.rounds} rounds")
    print("\n| model | step | ms | times zoo (range) |\n|---|---|---|---|")
    report: dict[str, Any] = {"machine": machine(options.device), "batch": options.batch}
    for case in options.cases.split(","):
        report[case] = measure(case, options)
        for name, row in report[case]["contenders"].items():
            print(
                f"| {case} | {name} | {1e3 * row['median_s']:.2f} | {row['ratio']:.2f} "
                f"({row['ratio_min']:.2f}-{row['ratio_max']:.2f}) |"
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    for part in ("vae_sphere.py", "vae_density.py"):
        file = Path(__file__).with_name(part)
        if file.exists() and not options.only:
            print(f"\n{part}", flush=True)
            quick = ["--quick"] if options.quick else []
            subprocess.run([sys.executable, str(file), *quick], check=True)


if __name__ == "__main__":
    main()
