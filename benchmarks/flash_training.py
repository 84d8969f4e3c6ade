"""Training of FLASH, FLASH-Quad, a Transformer and FLASH-pytorch at equal weights, side by side.

Every run has the same windows in the same order, the same loss, AdamW, schedule, clipping and
number of steps, in the Trainer that `zoo fit` has. Each contender's learning rate is the one of
--lrs whose validation loss is least with the first seed; the other seeds and the test have that
rate. A curve's points are the validation losses beside the tokens seen and the CPU seconds of
training so far, without evaluation. With --recall they are accuracies, of values whose keys were
told --gap symbols before.

    python benchmarks/flash_training.py [--root FOLDER --level word] [--recall PAIRS --gap 48]
        [--lrs 1e-3,3e-3,1e-2] [--seeds 0,1,2] [--steps 300] [--contenders 'flash;transformer;...']
        [--json FILE]
"""

import argparse
import json
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from zoo.data.synthetic import Synthetic
from zoo.data.text.language import Text
from zoo.flash.module_lm import FlashLM

CONTENDERS = {
    "flash": {"kind": "flash"},
    "flash, token shift": {"kind": "flash", "token_shift": True},
    "flash, no global part": {"kind": "flash", "global_part": False},
    "flash_quad": {"kind": "flash_quad"},
    "transformer": {"kind": "transformer"},
    "FLASH-pytorch": {"shift_tokens": True},
    "FLASH-pytorch, no shift": {"shift_tokens": False},
}


class Peer(nn.Module):
    """FLASH-pytorch's network with its own first weights, in the place of ours.

    Args:
        vocabulary: Number of symbols.
        options: The command line.
        shift_tokens: As theirs.
    """

    def __init__(self, vocabulary: int, options: argparse.Namespace, shift_tokens: bool) -> None:
        super().__init__()
        from flash_pytorch import FLASHTransformer

        self.whole = FLASHTransformer(
            dim=options.dim,
            num_tokens=vocabulary,
            depth=options.depth,
            group_size=options.chunk,
            query_key_dim=options.head,
            causal=True,
            shift_tokens=shift_tokens,
        )
        self.layers: nn.Module = self.whole.layers

    def forward(self, tokens: Tensor, doc_ids: Tensor | None = None) -> Tensor:
        """Logits (B, n, V) of tokens (B, n)."""
        logits: Tensor = self.whole(tokens)
        return logits


def build(name: str, vocabulary: int, lr: float, options: argparse.Namespace) -> FlashLM:
    """A contender as a module that the Trainer trains."""
    own: dict[str, Any] = CONTENDERS[name]
    module = FlashLM(
        vocab_size=vocabulary,
        dim=options.dim,
        depth=options.depth,
        head_size=options.head,
        chunk=options.chunk,
        position_bias=True,
        init_std=options.init_std,
        lr=lr,
        lr_schedule={max(options.steps // 20, 1): 1.0, options.steps: 0.0},
        weight_decay=0.1,
        **{k: v for k, v in own.items() if k != "shift_tokens"},
    )
    if "shift_tokens" in own:
        module.net = Peer(vocabulary, options, own["shift_tokens"])  # type: ignore[assignment]
    return module


class Curve(pl.Callback):
    """Validation numbers beside the tokens and the CPU seconds of training."""

    def __init__(self, tokens: int, metric: str) -> None:
        self.tokens, self.metric, self.points = tokens, metric, []
        self.spent = self.since = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Starts the clock."""
        self.since = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stops the clock."""
        self.spent += time.process_time() - self.since

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Adds a point."""
        value = trainer.callback_metrics[f"val/{self.metric}"].item()
        self.points.append((trainer.global_step * self.tokens, self.spent, value))


def load(seed: int, options: argparse.Namespace) -> Text | Synthetic:
    """The data, in an order of the seed's."""
    batches = {"batch_size": options.batch, "val_batch_size": 16384 // options.length}
    if options.recall:
        return Synthetic(
            task="recall",
            sequence_length=options.length,
            pairs=options.recall,
            gap=options.gap,
            seed=seed,
            **batches,
        )
    return Text(
        root=options.root,
        level=options.level,
        sequence_length=options.length,
        stride=options.length // 2,
        test_lengths=options.test_lengths,
        seed=seed,
        **batches,
    )


def train(
    name: str, lr: float, seed: int, options: argparse.Namespace
) -> tuple[dict[str, Any], FlashLM, pl.Trainer, Text | Synthetic]:
    """One run; its row, and what a test needs."""
    pl.seed_everything(seed, verbose=False)
    data = load(seed, options)
    symbols = data.symbols if isinstance(data, Synthetic) else len(data.vocabulary)
    module = build(name, symbols, lr, options)
    curve = Curve(options.batch * options.length, options.metric)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=options.steps,
        limit_test_batches=options.test_batches,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=None,
        val_check_interval=max(options.steps // 4, 1),
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[curve],
    )
    trainer.fit(module, data)
    layers: Any = module.net.layers
    weights = sum(p.numel() for p in layers.parameters())
    row = {"contender": name, "lr": lr, "seed": seed, "weights": weights, "curve": curve.points}
    return row, module, trainer, data


def tune(name: str, options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """A contender's runs: each rate with the first seed, the best of them with the others."""
    first, *others = options.seeds
    runs = [train(name, lr, first, options) for lr in options.lrs]
    ends = [run[0]["curve"][-1][2] for run in runs]
    losses = [-end if options.recall else end if end == end else math.inf for end in ends]
    best = runs[min(range(len(runs)), key=losses.__getitem__)]
    lr = best[0]["lr"]
    print(
        f"{name}: " + ", ".join(f"{a:g}: {b:.4f}" for a, b in zip(options.lrs, ends, strict=True))
    )
    rows += [run[0] for run in runs if run is not best]
    for seed in (first, *others):
        row, module, trainer, data = best if seed == first else train(name, lr, seed, options)
        [*tests] = trainer.test(module, data, verbose=False)
        merged = {k: v for test in tests for k, v in test.items()}
        row["test"] = [
            merged[f"test/{options.metric}" + (f"@{n}" if i else "")]
            for i, n in enumerate(options.test_lengths)
        ]
        rows.append(row)
        show(name, [row], options)
        if options.json:
            options.json.write_text("".join(json.dumps(r) + "\n" for r in rows))
    show(name, [r for r in rows if r["contender"] == name and "test" in r], options)


def show(name: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Mean and deviation over the seeds of the losses in the unit of the data, or accuracies."""
    if options.recall:
        unit = float
    else:
        unit = math.exp if options.level.startswith("word") else lambda nats: nats / math.log(2)

    def cell(values: list[float]) -> str:
        each = [unit(x) for x in values]
        spread = f" ± {statistics.stdev(each):.3f}" if len(each) > 1 else ""
        return f"{statistics.mean(each):.3f}{spread}"

    seeds = f"{len(rows)} seeds" if len(rows) > 1 else f"seed {rows[0]['seed']}"
    print(f"{name}, lr {rows[0]['lr']:g}, {rows[0]['weights']} weights, {seeds}")
    for i, (tokens, *_) in enumerate(rows[0]["curve"]):
        spent = statistics.mean(r["curve"][i][1] for r in rows)
        values = cell([r["curve"][i][2] for r in rows])
        print(f"  {tokens:>9} tokens  {spent:7.1f} CPU s  val {values}")
    for i, n in enumerate(options.test_lengths):
        print(f"  test at {n:>6}: {cell([r['test'][i] for r in rows])}", flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = lambda text: [int(x) for x in text.split(",")]  # noqa: E731
    parser.add_argument("--root", help="of the text; tiny Shakespeare if not given")
    parser.add_argument("--level", default="char")
    parser.add_argument("--recall", type=int, default=0, help="pairs to recall, instead of text")
    parser.add_argument("--gap", type=int, default=0, help="symbols between pairs and questions")
    parser.add_argument("--contenders", type=lambda t: t.split(";"), default=list(CONTENDERS))
    parser.add_argument(
        "--lrs", type=lambda t: [float(x) for x in t.split(",")], default=[1e-3, 3e-3, 1e-2]
    )
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--test_lengths", type=numbers, default=[256, 1024, 4096, 16384])
    parser.add_argument(
        "--test_batches", type=int, help="of 16,384 tokens, at each length; all if not given"
    )
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--head", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--init_std", type=float, default=0.05, help="of our weights")
    parser.add_argument("--json", type=Path, help="a line for each run")
    options = parser.parse_args()
    if unknown := set(options.contenders) - set(CONTENDERS):
        parser.error(f"--contenders {'; '.join(unknown)}: choose from {'; '.join(CONTENDERS)}")
    options.metric = "accuracy" if options.recall else "loss"
    if options.recall:
        options.test_lengths = [options.length]
    warnings.filterwarnings("ignore")
    rows: list[dict[str, Any]] = []
    for name in options.contenders:
        tune(name, options, rows)


if __name__ == "__main__":
    main()
