"""RoFormer-Sim against transformers and sentence-transformers: training, encoding, paraphrasing.

All have the same random weights (through our own exports; the largest difference of the outputs is
printed) and take turns in one process; what is printed are medians, and the median and range of the
rounds' ratios to ours. The sentences are the embedded PAWS-X ones, cut to ragged lengths.

- step: the joint loss, forward, backward, clipping and fused AdamW. transformers' RoFormer gets the
  same masks (4-D, additive) and the same optimiser, and computes logits at all places, as its class
  does.
- encode: sentences to unit vectors, tokenizing included; SentenceTransformer loads our export.
- paraphrase: n samples of one sentence by nucleus sampling, the end token forbidden so that all
  write as many tokens; the logits are scaled so that the nucleus is small, as after training.
  transformers' generate has its cache, but no UniLM mask (its prompt is causal), so only its work
  is the same. recompute is the author's way: all rows whole, each token.

    python benchmarks/simbert.py [--quick] [--parts step encode] [--threads 1] [--rounds 5]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo import RoFormerSim
from zoo.data import SimilarGroups
from zoo.data.sentences.tokenizer import Tokenizer
from zoo.layers.choose import choose
from zoo.simbert.decoding import NUCLEUS, sample
from zoo.simbert.encoder import unilm_mask
from zoo.simbert.interchange import to_transformers
from zoo.simbert.interchange_sentences import to_sentence_transformers

Calls = dict[str, Callable[[], Any]]
PARTS = ["step", "encode", "paraphrase"]


def interleave(calls: Calls, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Times of every call, one of each a round, the order turning from round to round."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds + 1):  # the first is warm-up
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            calls[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i:
                times[name].append(time.perf_counter() - start)
    return times


def report(title: str, times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Prints and returns the medians and ratios to the first."""
    first = next(iter(times))
    out = {}
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times[first], strict=True)]
        out[name] = {
            "median_s": statistics.median(own),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
        row = out[name]
        print(
            f"{title:<11}{name:<26}{row['median_s'] * 1e3:10.1f} ms  {row['ratio']:6.2f} "
            f"({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
        )
    return out


def build(options: argparse.Namespace) -> tuple[RoFormerSim, Any, Any, SimilarGroups]:
    """Ours, and transformers' and sentence-transformers' models of the same weights."""
    import sentence_transformers
    import transformers

    data = SimilarGroups(batch_size=options.batch // 2, max_length=32)
    data.setup()
    torch.manual_seed(0)
    ours = RoFormerSim(
        vocab_size=options.vocab,
        hidden=options.hidden,
        layers=options.layers,
        heads=options.hidden // 32,
        dropout=0.0,
        attention_dropout=0.0,
        mask_family=False,
    )
    with torch.no_grad():  # a trained model's nucleus is small, that of random weights is not
        ours.net.head_norm.weight *= 12
    ours.tokenizer = Tokenizer(data.vocabulary(options.vocab))
    data.tokenizer = ours.tokenizer
    hparams, state = dict(ours.hparams), ours.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        to_transformers(hparams, state, Path(folder) / "a")
        to_sentence_transformers(hparams, state, Path(folder) / "b")
        theirs = transformers.RoFormerForMaskedLM.from_pretrained(Path(folder) / "a")
        causal = transformers.RoFormerForCausalLM.from_pretrained(
            Path(folder) / "a", is_decoder=True
        )
        sentences = sentence_transformers.SentenceTransformer(
            str(Path(folder) / "b"), device=options.device
        )
    theirs.pooler = torch.nn.Linear(options.hidden, options.hidden)
    theirs.pooler.load_state_dict(ours.net.pooler.state_dict())
    for model in (ours, theirs, causal):
        model.to(options.device)
    theirs.causal = causal
    return ours, theirs, sentences, data


def their_losses(theirs: Any, batch: Any, scale: float) -> Tensor:
    """The joint loss as one writes it around transformers' class."""
    mask = unilm_mask(batch.segments, batch.lengths)
    additive = torch.zeros(mask.shape, device=mask.device).masked_fill(
        ~mask, torch.finfo(torch.float32).min
    )
    output = theirs(
        batch.tokens,
        attention_mask=additive,
        token_type_ids=batch.segments,
        output_hidden_states=True,
    )
    targets = batch.tokens[:, 1:].masked_fill(batch.segments[:, 1:] == 0, -100)
    lm = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), targets.flatten())
    v = F.normalize(theirs.pooler(output.hidden_states[-1][:, 0]), dim=-1)
    s = (scale * v @ v.T).fill_diagonal_(-torch.inf)
    return lm + F.cross_entropy(s, torch.arange(len(s), device=s.device) ^ 1)


def step_calls(ours: RoFormerSim, theirs: Any, batch: Any) -> Calls:
    """A training step of each."""
    scale = ours.hparams["scale"]
    with torch.no_grad():
        a, b = ours.training_step(batch, 0), their_losses(theirs, batch, scale)
    print(f"step       losses differ by {abs(float(a) - float(b)):.1e}")
    calls: Calls = {}
    for name, model, loss in (
        ("zoo", ours, lambda: ours.training_step(batch, 0)),
        ("transformers", theirs, lambda: their_losses(theirs, batch, scale)),
    ):
        parameters = [p for n, p in model.named_parameters() if not n.startswith("causal.")]
        optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)

        def step(
            loss: Any = loss, parameters: Any = parameters, optimizer: Any = optimizer
        ) -> None:
            optimizer.zero_grad()
            loss().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

        calls[name] = step
    return calls


def encode_calls(ours: RoFormerSim, sentences: Any, texts: list[str], batch: int) -> Calls:
    """Vectors of all texts by each."""
    own = ours.encode(texts, batch_size=batch)
    other = torch.from_numpy(sentences.encode(texts, batch_size=batch))
    print(f"encode     vectors differ by {float((own - other).abs().max()):.1e}")
    return {
        "zoo": lambda: ours.encode(texts, batch_size=batch),
        "sentence-transformers": lambda: sentences.encode(texts, batch_size=batch),
    }


@torch.no_grad()
def recompute(theirs: Any, source: list[int], n: int, max_new: int, sep: int) -> Tensor:
    """N samples, the whole rows anew for every token; the model is transformers' too."""
    device = theirs.device
    rows = torch.tensor([source] * n, device=device)
    for _ in range(max_new):
        segments = (torch.arange(rows.shape[1], device=device) >= len(source)).long()
        segments = segments.expand(n, -1)
        mask = unilm_mask(segments, torch.full((n,), rows.shape[1], device=device))
        additive = torch.zeros(mask.shape, device=device).masked_fill(~mask, -1e30)
        hidden = theirs.base_model(
            rows, attention_mask=additive, token_type_ids=segments
        ).last_hidden_state
        logits = theirs.cls(hidden[:, -1:])[:, 0]
        logits[:, sep] = -torch.inf
        token = choose(logits, torch.rand(n, device=device), NUCLEUS)
        rows = torch.cat([rows, token[:, None]], 1)
    return rows


def paraphrase_calls(ours: RoFormerSim, theirs: Any, options: argparse.Namespace) -> Calls:
    """N samples of one sentence by each."""
    source = ours.tokenizer.encode(["广州和深圳哪个更好一些？"], 32)
    sep, n, new = ours.tokenizer.sep, options.n, options.new
    with torch.no_grad():
        ours.net.head_bias[sep] = -1e9
    prompt = torch.tensor(source, device=ours.device)

    def generate() -> None:
        with torch.no_grad():
            theirs.causal.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                top_p=0.95,
                top_k=0,
                num_return_sequences=n,
                max_new_tokens=new,
                min_new_tokens=new,
                eos_token_id=sep,
                pad_token_id=0,
            )

    return {
        "zoo": lambda: sample(ours, source, n, max_new=new),
        "transformers generate": generate,
        "recompute": lambda: recompute(theirs, source[0], n, new, sep),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small network and few rounds")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocab", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=96, help="rows of a training step")
    parser.add_argument("--sentences", type=int, default=600, help="sentences to encode")
    parser.add_argument("--n", type=int, default=100, help="paraphrases")
    parser.add_argument("--new", type=int, default=24, help="tokens of a paraphrase")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", help="where to write the numbers")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.hidden, options.layers = 2, 128, 2
        options.vocab, options.batch, options.sentences, options.n = 3000, 32, 200, 20
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    import transformers

    transformers.logging.set_verbosity_error()
    ours, theirs, sentences, data = build(options)
    device = torch.device(options.device)
    batch = next(iter(data.train_dataloader()))
    batch = batch._replace(
        **{k: v.to(device) for k, v in batch._asdict().items() if isinstance(v, Tensor)}
    )
    found = [text for group in data.groups("train") for text in group][: options.sentences]
    ragged = [text[: 4 + 7 * i % 40] for i, text in enumerate(found)]
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {device}, "
        f"{options.threads} threads, {options.layers} layers of {options.hidden}, "
        f"{options.vocab} tokens, rows of {batch.tokens.shape[1]}\n"
    )
    results = {}

    def measure(part: str, calls: Callable[[], Calls]) -> None:
        if part in options.parts:
            results[part] = report(part, interleave(calls(), options.rounds, device))

    ours.train()
    theirs.train()
    measure("step", lambda: step_calls(ours, theirs, batch))
    ours.eval()
    theirs.eval()
    theirs.causal.eval()
    # The steps have moved our weights: sentence-transformers gets them again.
    with tempfile.TemporaryDirectory() as folder:
        to_sentence_transformers(dict(ours.hparams), ours.state_dict(), Path(folder))
        sentences = type(sentences)(folder, device=options.device)
    measure("encode", lambda: encode_calls(ours, sentences, ragged, 64))
    measure("paraphrase", lambda: paraphrase_calls(ours, theirs, options))
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k != "json"}
        Path(options.json).write_text(json.dumps({"options": settings, **results}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
