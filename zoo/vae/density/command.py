"""The verbs density, compress and decompress; the docstrings are their help."""

import csv
import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from zoo.data.protocols import Split
from zoo.files import beside, keep_read, replacing
from zoo.layers.counter_rng import uniform
from zoo.loading import device_of, find_checkpoint, load
from zoo.memory import check_memory
from zoo.ranges import Count, Range, Seed, Whole
from zoo.sources import open_source
from zoo.training.parts import in_parts
from zoo.tuning.inference import Work, in_precision
from zoo.vae.density.importance import DensityEstimate, estimate_log_density
from zoo.vae.density.pareto import UNRELIABLE
from zoo.vae.density.refinement import STEPS, described

COLUMNS = ("log_density", "standard_error", "ess", "pareto_k", "jackknife", "elbo")


def density(
    ckpt: str,
    *,
    data: str | None = None,
    root: str | None = None,
    split: Split = "test",
    samples: Count = 5000,
    widen: Annotated[float, Range(0, 1000, without_low=True)] = 1.0,
    refine: Whole = STEPS,
    repeats: Count = 1,
    seed: Seed = 0,
    ais: Whole = 0,
    temperatures: Count = 1000,
    out: str = "density.csv",
    limit: Count | None = None,
    batch_size: Count = 100,
    chunk: Count | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["32", "auto"] = "32",
) -> None:
    """Estimates log p(x) of each datum by importance sampling, with its error bars.

    One row a datum goes to the CSV, in nats: log_density, its
    standard_error, ess (effective samples), pareto_k (above 0.7 the estimate is not reliable),
    jackknife (log_density without its first-order bias), elbo (of the
    proposal), and bits_per_dim. A row is a
    function of (seed, the datum's number), whatever the batch size. Several
    processes share the batches under torchrun; those that are done are kept beside the CSV until
    all are, and a command that is given again goes on from there.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        data: A folder or .zip of images, an .npy of uint8 images, a config, or a DataModule such
            as MNIST; the data that the checkpoint was trained on if not given.
        root: Folder of the data, where it is not the one that the config names.
        split: Which split of the data; images of a folder, .zip or .npy are taken all.
        samples: Importance samples a datum.
        widen: Factor on the standard deviation of the proposal, such as 1.2: a little too wide is
            safer than a little too narrow.
        refine: Newton steps from the encoder's posterior to a proposal for each datum, with which
            500 samples usually do; 0 to draw from the posterior itself, as published protocols do.
        repeats: Estimate so often, with seeds seed, seed + 1, ..., for an error over repeats.
        seed: Seed of the noise.
        ais: Check the method on so many images that the model makes: annealed importance sampling
            brackets their log p(x). Some minutes.
        temperatures: Temperatures of that check: the more, the closer are its bounds.
        out: The CSV to write, whole or, if the command is stopped, of what is done; - for standard
            output.
        limit: Only the first so many data.
        batch_size: Data at a time.
        chunk: Samples of a datum at a time: memory is in proportion to it.
        device: Where to compute; auto takes a GPU if there is one.
        precision: auto takes the number of threads that is measured to be best on this machine
            (zoo tune), now if not before. Half precision would move a density by whole nats.
    """
    given = {name: value for name, value in locals().items() if name != "out"}
    keep_read("--out", out, ckpt, data, root)
    check_memory(f"--repeats={repeats}", 72 * repeats)
    check_memory(f"--temperatures={temperatures}", 8 * temperatures)
    target = device_of(device)
    model: Any = load(ckpt).to(target)
    if not hasattr(model, "posterior") or not hasattr(model, "log_likelihood"):
        raise ValueError(f"{type(model).__name__} has no encoder to draw importance samples with")
    if ais:
        from zoo.vae.density.sandwich import CHAINS, simulate

        check_memory(f"--ais={ais}", 16.0 * ais * CHAINS * model.dimensions)
        simulate(model, torch.zeros(1, dtype=torch.int64, device=target), seed)  # or refuse at once
    if precision == "auto" and not hasattr(model, "shape"):
        raise ValueError("--precision auto: is for densities of images; leave it out")
    source = open_source(model, ckpt, data, root, split)
    stopped: KeyboardInterrupt | None = None
    summary = Summary(repeats, bits_scale(model))
    count = len(source.dataset) if limit is None else min(limit, len(source.dataset))

    at_once = min(chunk or 1, samples) * min(batch_size, count)
    numbers = getattr(model, "decoded_numbers", model.dimensions)
    # What is decoded, its distribution and its likelihood, in float32.
    check_memory(f"--chunk={chunk}, --batch_size={batch_size}", 12.0 * at_once * numbers)
    how: dict[str, Any] = {"samples": samples, "widen": widen, "refine": refine, "chunk": chunk}

    def make(start: int, stop: int) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        batch = next(source.batches(stop - start, stop, target, start))
        x = model.prepare(batch[0], batch.index) if hasattr(model, "prepare") else batch
        estimates = (
            estimate_log_density(model, x, batch.index, seed=seed + repeat, **how)
            for repeat in range(repeats)
        )
        return batch.index.cpu(), [tuple(column.cpu() for column in e) for e in estimates]

    given |= {"ckpt": find_checkpoint(ckpt), "title": source.title, "count": count}
    with (
        in_precision(model, precision, density_work(batch_size)),
        in_parts(out, make, count, batch_size, given) as parts,
    ):
        with replacing(out) as path, path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            extra = (["repeat"] if repeats > 1 else []) + (["file"] if source.names else [])
            table.writerow(["index", *COLUMNS, "bits_per_dim", *extra])
            try:
                for index, columns in parts:
                    estimates = [DensityEstimate(*each) for each in columns]
                    for repeat, e in enumerate(estimates):
                        values = [c.tolist() for c in (index, *e, summary.bits(e.log_density))]
                        for row in zip(*values, strict=True):
                            tail: list[Any] = [repeat] if repeats > 1 else []
                            tail += [source.names[int(row[0])]] if source.names else []
                            table.writerow([row[0], *(f"{v:.10g}" for v in row[1:]), *tail])
                    summary.add(estimates)
            except KeyboardInterrupt as interrupt:
                if not summary.count:
                    raise
                stopped = interrupt  # what is done stays
        told = summary.text(source.title, samples, widen, refine, seed)
        print(f"{told}\nwritten to {out}", file=beside(out))
        if stopped:
            raise stopped
    if ais:
        from zoo.vae.density.sandwich import check

        checked = check(model, ais, temperatures=temperatures, seed=seed, **how)
        print(checked, file=beside(out))


def density_work(items: int) -> Work:
    """What `zoo density` does so many images at a time, with 50 samples each."""

    def run(model: Any, n: int) -> Tensor:
        index = torch.arange(n, device=model.device)
        x = uniform(0, index, 0, model.shape)
        x = model.prepare(2 * x - 1, index) if hasattr(model, "prepare") else x
        return estimate_log_density(model, x, index, samples=50, seed=0).log_density

    return Work("density", run, items, precisions=())


def bits_scale(model: Any) -> tuple[float, float] | None:
    """Data dimensions, and the nats a dimension from a density to the probability of a level.

    None where p(x|z) is no probability of the data as they are stored, so that no number of bits
    follows.
    """
    nats = getattr(model, "nats_of_a_level", 0.0)  # there is such a thing of images alone
    return None if nats is None else (float(model.dimensions), nats)


class Summary:
    """Means over the data, with their errors over data and over repeats.

    Args:
        repeats: Estimates of each datum.
        scale: What `bits_scale` says.
    """

    def __init__(self, repeats: int, scale: tuple[float, float] | None) -> None:
        self.scale = scale
        self.count = self.unreliable = 0
        self._of_data = torch.zeros(2, dtype=torch.float64)  # sums of a datum's mean and its square
        self._of_repeats = torch.zeros(repeats, 3, dtype=torch.float64)
        self._variance = 0.0

    def bits(self, log_density: Tensor) -> Tensor:
        """Bits a dimension of log densities; NaN where there are none."""
        if self.scale is None:
            return torch.full_like(log_density, math.nan)
        dimensions, nats = self.scale
        return -(log_density / dimensions + nats) / math.log(2)

    def add(self, estimates: list[DensityEstimate]) -> None:
        """Adds a batch, estimated once for each repeat."""
        values = torch.stack([e.log_density for e in estimates])
        names = ("log_density", "jackknife", "elbo")
        sums = [[getattr(e, name).sum() for name in names] for e in estimates]
        self._of_repeats += torch.tensor(sums, dtype=torch.float64)
        mean = values.mean(0)
        self._of_data += torch.stack([mean.sum(), mean.square().sum()])
        self._variance += float(torch.stack([e.standard_error.square() for e in estimates]).sum())
        self.unreliable += int(sum((e.pareto_k > UNRELIABLE).long() for e in estimates).gt(0).sum())  # type: ignore[union-attr]
        self.count += values.shape[1]

    def text(self, title: str, samples: int, widen: float, refine: int, seed: int) -> str:
        """What is printed."""
        n, R = self.count, len(self._of_repeats)
        total, squares = (self._of_data / n).tolist()
        over_data = math.sqrt(max(squares - total**2, 0) / (n - 1)) if n > 1 else math.nan
        means = self._of_repeats / n
        seeds = f"seed {seed}" if R == 1 else f"seeds {seed} to {seed + R - 1}"
        lines = [
            f"{n} data of the {title}, {samples} samples each {described(refine, widen)}, {seeds}:",
            f"log_density   {total:.4f} nats, standard error {over_data:.4f} over data",
        ]
        if R > 1:
            spread = means[:, 0].std().item() / math.sqrt(R)
            lines[-1] += f", {spread:.2g} over {R} repeats"
        elif samples > 1:
            lines[-1] += f", {math.sqrt(self._variance) / n:.2g} of the sampling"
        if samples > 1:
            lines.append(f"jackknife     {means[:, 1].mean():.4f}")
        of = "" if widen == 1 and not refine else " of that proposal"
        lines.append(f"elbo          {means[:, 2].mean():.4f}{of}")
        if self.scale is not None:
            bits = self.bits(torch.tensor([total], dtype=torch.float64)).item()
            lines.append(f"bits_per_dim  {bits:.4f}")
        if self.unreliable:
            advice = f"--refine {refine + STEPS}"
            lines.append(
                f"warning: {self.unreliable} of {n} data have Pareto-k above {UNRELIABLE}: neither "
                f"their estimates nor their errors are reliable; try {advice} or more --samples"
            )
        return "\n".join(lines)
