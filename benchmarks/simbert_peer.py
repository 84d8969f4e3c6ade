r"""sentence-transformers trained as our stages are: same data, first weights, tokenizer and budget.

The first weights are those of a run of ours, through our own export; the batches are those of our
recipe's data, as texts; the optimiser, its schedule and the clipping are ours too. Only the losses,
the forward pass and the tokenizing are sentence-transformers' own. Then the cosines of its `encode`
are judged on the recipe's evaluation pairs, test split, as `zoo test` judges ours.

- mnrl: MultipleNegativesRankingLoss on similar pairs, beside stage 2 (-c simbert/simbert).
- cosent: CoSENTLoss on labelled pairs, beside stage 4 (-c simbert/cosent). It compares all labels
  of a batch with one another: grades are divided by 5, and NLI gets 0, 0.5 and 1.

    python benchmarks/simbert_peer.py mnrl -c simbert/simbert --init runs/simbert-mlm \
        --root data/zh_sts --steps 6000 --lr 5e-4 --out runs/peer-mnrl
    python benchmarks/simbert_peer.py cosent -c simbert/cosent --init runs/peer-mnrl \
        --root data/zh_sts --steps 4000 --lr 2e-4 --out runs/peer-cosent
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import yaml
from torch import Tensor

import zoo
from zoo.data import LabelledPairs, SimilarGroups
from zoo.data.sentences.batches import LabelledBatch
from zoo.data.sentences.tokenizer import Tokenizer
from zoo.simbert.evaluation import spearman
from zoo.simbert.interchange_sentences import to_sentence_transformers
from zoo.simbert.losses import TASKS
from zoo.training.optim import piecewise_linear

CONFIGS = Path(__file__).parent.parent / "configs"
PROBE = (("我喜欢北京", "我很喜欢北京"), ("我喜欢北京", "我不喜欢北京"))


def start(init: str, folder: Path) -> Any:
    """The model to train: an earlier `--out`, or a run or checkpoint of ours."""
    from sentence_transformers import SentenceTransformer

    if not (Path(init) / "modules.json").is_file():
        ours: Any = zoo.load(init)
        to_sentence_transformers(dict(ours.hparams), ours.state_dict(), folder)
        init = str(folder)
    return SentenceTransformer(init, device="cpu")


def data_of(recipe: str, options: argparse.Namespace, tokens: list[str]) -> Any:
    """The recipe's data, in the model's vocabulary."""
    own = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text(encoding="utf-8"))["data"]
    kind = {"SimilarGroups": SimilarGroups, "LabelledPairs": LabelledPairs}
    arguments = {**own["init_args"], "root": options.root, "seed": options.seed}
    for name in ("max_length", "batch_size", "files"):
        if getattr(options, name) is not None:
            arguments[name] = getattr(options, name)
    data = kind[own["class_path"].rsplit(".", 1)[-1]](**arguments)
    data.setup()
    data.tokenizer = Tokenizer(tokens)
    return data


def endless(data: Any) -> Iterator[Any]:
    """Training batches, epoch after epoch."""
    loader = data.train_dataloader()
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def grades(batch: LabelledBatch) -> Tensor:
    """Labels from 0 to 1, which sentence-transformers takes without their kinds."""
    most = torch.tensor([1.0, 2.0, 5.0])[batch.task]
    assert TASKS == ("yes/no", "NLI", "graded")
    return batch.label / most


def train(model: Any, data: Any, options: argparse.Namespace) -> None:
    """The given number of steps."""
    from sentence_transformers import losses

    kind = {"mnrl": losses.MultipleNegativesRankingLoss, "cosent": losses.CoSENTLoss}
    loss = kind[options.loss](model, scale=options.scale)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.01, fused=True)
    points = {options.warmup: 1.0, options.steps: 0.0}
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, piecewise_linear(points))
    model.train()
    begin, recent = time.perf_counter(), []
    for step, batch in enumerate(islice(endless(data), options.steps), 1):
        features = [model.tokenize(batch.texts[side::2]) for side in (0, 1)]
        labels = grades(batch) if isinstance(batch, LabelledBatch) else None
        value = loss(features, labels)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(value.item())
        if step % 50 == 0:
            each = (time.perf_counter() - begin) / step
            print(f"step {step}: loss {sum(recent) / len(recent):.3f}, {each:.2f} s a step")
            recent = []
    model.eval()


def cosines(model: Any, pairs: Any) -> Tensor:
    """Cosine of the two sentences of each pair."""
    a, b = (
        model.encode([pair[side] for pair in pairs], normalize_embeddings=True) for side in (0, 1)
    )
    return torch.from_numpy((a * b).sum(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loss", choices=("mnrl", "cosent"))
    parser.add_argument("-c", dest="recipe", required=True, help="the recipe whose data it is")
    parser.add_argument("--init", required=True, help="a run of ours, or an earlier --out")
    parser.add_argument("--root", required=True, help="folder of the files")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--scale", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_length", type=int)
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--files", nargs="+", help="in place of the recipe's")
    parser.add_argument("--out", required=True, help="folder of the model and its results.json")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    out = Path(options.out)
    model = start(options.init, out)
    vocabulary = model.tokenizer.get_vocab()
    data = data_of(options.recipe, options, sorted(vocabulary, key=vocabulary.__getitem__))
    if options.max_length is not None:
        model.max_seq_length = options.max_length
    train(model, data, options)
    model.max_seq_length = 64
    model.save(str(out))
    results = {
        f"spearman_{name}": spearman(cosines(model, pairs), torch.tensor([p.label for p in pairs]))
        for name, pairs in data.labelled("test").items()
    }
    results["spearman"] = sum(results.values()) / len(results)
    for key, value in results.items():
        print(f"{key:<16}{value:8.2f}")
    probe = cosines(model, PROBE).tolist()
    for pair, cosine in zip(PROBE, probe, strict=True):
        print(f"{cosine:.4f}  {' / '.join(pair)}")
    settings = {**vars(options), "probe": probe}
    (out / "results.json").write_text(json.dumps({**settings, **results}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
