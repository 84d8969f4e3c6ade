"""The models' losses, steps and runs."""

import json
import logging
import math
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from torch.nn import functional as F

import zoo
from tests.simbert.models import TINY, TOKENS, texts, tiny
from zoo.data import Digits, LabelledPairs, Sentences, SimilarGroups, TextLines
from zoo.data.sentences.batches import seq2seq_batch
from zoo.data.sentences.labels import NLI
from zoo.simbert.base import PURPOSES
from zoo.simbert.encoder import unilm_mask
from zoo.simbert.gradcache import in_chunks
from zoo.training import StepRNG


def pair_batch(model, n=4, seed=0, group=None):
    """A seq2seq batch of n pairs."""
    many = texts(2 * n, seed)
    tokenizer = model.tokenizer
    sources = tokenizer.encode(many, 20)
    swapped = [i ^ 1 for i in range(2 * n)]
    return seq2seq_batch(
        sources,
        [sources[i][1:] for i in swapped],
        pad=tokenizer.pad,
        group=[i // 2 for i in range(2 * n)] if group is None else group,
        texts=many,
        index=range(2 * n),
    )


def files(folder):
    """Groups and labelled pairs to train and evaluate on."""
    many = texts(60, seed=5, shortest=4)
    groups = [{"text": a, "synonyms": [a[::-1]]} for a in many]
    lines = [json.dumps(g, ensure_ascii=False) for g in groups if g["text"] != g["synonyms"][0]]
    (folder / "groups.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = [
        f"{a}\t{b}\t{i % 2}"
        for i, (a, b) in enumerate(zip(texts(30, 7), texts(30, 8), strict=True))
    ]
    (folder / "yes.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    nli = [
        f"{a}\t{b}\t{NLI[i % 3]}"
        for i, (a, b) in enumerate(zip(texts(30, 9), texts(30, 10), strict=True))
    ]
    (folder / "nli.tsv").write_text("\n".join(nli) + "\n", encoding="utf-8")
    more = [f"{a}\t{a[::-1]}甲\t1" for a in texts(30, 11)]
    (folder / "more.tsv").write_text("\n".join(more) + "\n", encoding="utf-8")
    return str(folder)


def trainer(processes=1, **options):
    defaults = {
        "accelerator": "cpu",
        "devices": processes,
        "strategy": "ddp_fork" if processes > 1 else "auto",
        "callbacks": [StepRNG(seed=1)],
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "logger": False,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": -1,
    }
    return L.Trainer(**{**defaults, **options})


# Losses


def test_the_joint_loss_is_the_authors():
    """Both losses from full logits and the segment's weights, as simbert.py computes them."""
    model = tiny("SimBERT", scale=30)
    batch = pair_batch(model)
    hidden = model.net(batch.tokens, batch.segments, unilm_mask(batch.segments, batch.lengths))
    logits = model.net.logits(hidden)
    weight = batch.segments[:, 1:].float()
    ce = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch.tokens[:, 1:], reduction="none")
    v = F.normalize(model.net.pooler(hidden[:, 0]), dim=1)
    s = 30 * (v @ v.T - 1e12 * torch.eye(8))
    parts = model.losses(batch)
    torch.testing.assert_close(parts["lm"], (ce * weight).sum() / weight.sum())
    torch.testing.assert_close(parts["contrast"], F.cross_entropy(s, torch.arange(8) ^ 1))
    torch.testing.assert_close(model.training_step(batch, 0), parts["lm"] + parts["contrast"])


def test_rows_of_one_family_are_no_negatives():
    options = {"scale": 5.0}
    model, plain = tiny(**options), tiny(mask_family=False, **options)
    batch = pair_batch(model, group=[0, 0, 1, 1, 0, 0, 2, 2])
    vectors = torch.randn(8, 16)
    cos = F.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    expected = []
    for i in range(8):
        group = batch.group
        others = [j for j in range(8) if j == i ^ 1 or group[j] != group[i]]
        expected.append((5 * cos[i, others]).logsumexp(0) - 5 * cos[i, i ^ 1])
    loss = model.vector_losses(vectors, batch)["contrast"]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert plain.vector_losses(vectors, batch)["contrast"] > loss


@pytest.mark.parametrize("chunk", [2, 6])
def test_chunks_have_the_loss_and_gradient_of_the_whole(chunk):
    whole, parts = tiny(), tiny(chunk=chunk)
    batch = pair_batch(whole)
    grads = []
    for model in (whole, parts):
        loss = model.train().training_step(batch, 0)
        loss.backward()
        grads.append([loss.detach(), *(p.grad for p in model.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_chunks_repeat_their_dropout():
    """The gradient is that of the same chunks kept in memory, under the same masks."""
    model = tiny(dropout=0.3, attention_dropout=0.3).train()
    batch = pair_batch(model)

    def kept(function, rows, chunk):
        parts = [function(slice(i, i + chunk)) for i in range(0, rows, chunk)]
        return torch.cat([p[0] for p in parts]), sum(p[1] for p in parts)

    grads = []
    for run in (in_chunks, kept):
        torch.manual_seed(4)
        vectors, total = run(lambda rows: model.joint_pass(batch, rows), 8, 4)
        loss = model.vector_losses(vectors, batch)["contrast"] + total
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_distillation_is_the_posts_and_the_teacher_stays_outside(tmp_path):
    teacher = tiny("SentenceSimilarity", seed=3)
    zoo.save_pretrained(teacher, tmp_path / "teacher")
    model = tiny(teacher=str(tmp_path / "teacher"), distillation_weight=100.0)
    keys = set(model.state_dict())
    data = SimilarGroups(files=["groups.jsonl"], root=files(tmp_path), batch_size=6)
    trainer(max_steps=1, limit_val_batches=0).fit(model.train(), data)
    assert set(model.state_dict()) == keys
    batch = pair_batch(model)
    u = torch.randn(8, 16)
    v = teacher.encode(batch.texts)
    cu = F.cosine_similarity(u[:, None], u[None], dim=-1)
    expected = 100 / 64 * ((cu - v @ v.T) ** 2).sum()
    torch.testing.assert_close(model.vector_losses(u, batch)["distil"], expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SimBERT", {}),
        ("SimBERT", {"objective": "mlm"}),
        ("RoFormerSim", {"objective": "simcse", "dropout": 0.1}),
        ("RoFormerSim", {"matryoshka": [16, 4], "contrast": "flatnce"}),
        ("SentenceSimilarity", {"head": "sbert"}),
        ("SentenceSimilarity", {"head": "cosent", "matryoshka": [16, 8]}),
        ("SentenceSimilarity", {"head": "hinge", "chunk": 4}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_trained_parameter_gets_a_finite_gradient(name, options, dtype, tmp_path):
    model = tiny(name, **options).train()
    root = files(tmp_path)
    purpose = options.get("objective")
    if name == "SentenceSimilarity":
        data = LabelledPairs(files=["yes.tsv", "nli.tsv"], root=root, batch_size=12)
    elif purpose:
        data = Sentences(files=["groups.jsonl"], root=root, purpose=purpose, batch_size=12)
    else:
        data = SimilarGroups(files=["groups.jsonl"], root=root, batch_size=12)
    data.tokenizer = model.tokenizer
    data.setup()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = model.training_step(next(iter(data.train_dataloader())), 0)
    scale = 2.0**10 if dtype == torch.float16 else 1.0  # as a loss scaler's
    (scale * loss).backward()
    assert loss.dtype == torch.float32
    for key, p in model.named_parameters():
        if p.requires_grad and "position" not in key:
            assert p.grad is not None, key
            assert p.grad.isfinite().all(), key
            # A key's bias adds the same to all scores of a query.
            assert p.grad.abs().max() > 0, key
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert all("head" in key or "pooler" in key for key in frozen)


# Processes

CASES = {
    "joint": ("RoFormerSim", {}),
    "chunks": ("SimBERT", {"chunk": 4, "scale": 5.0}),
    "cosent": ("SentenceSimilarity", {"head": "cosent"}),
    "sbert": ("SentenceSimilarity", {"head": "sbert"}),
    "hinge": ("SentenceSimilarity", {"head": "hinge"}),
}


class Plain:
    """Steps of gradient descent with rate 1, which show the gradient itself."""

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1.0)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_step_of_one(case, tmp_path):
    name, options = CASES[case]
    root, made = files(tmp_path), {}
    for processes in (1, 2):
        model = tiny(name, std=0.1, **options)
        start = {k: v.clone() for k, v in model.named_parameters()}
        cls = type(model)
        model.__class__ = type(cls.__name__, (Plain, cls), {})
        shared = {"root": root, "batch_size": 16 // processes}
        if name == "SentenceSimilarity":
            data = LabelledPairs(files=["yes.tsv", "nli.tsv"], **shared)
        else:
            data = SimilarGroups(files=["groups.jsonl"], **shared)
        run = trainer(processes, max_steps=1, limit_val_batches=0, precision="64-true")
        run.fit(model.double().train(), data)
        made[processes] = dict(model.named_parameters())
    moved = 0.0
    for key, value in made[1].items():
        torch.testing.assert_close(value, made[2][key], rtol=0, atol=1e-12)
        moved = max(moved, (value - start[key]).abs().max().item())
    assert moved > 1e-3


def test_masked_words_are_tested_by_the_evaluation_pairs_alone(tmp_path):
    """Sentences have no test split, and so no test/loss."""
    model = tiny(objective="mlm")
    data = Sentences(files=["groups.jsonl"], root=files(tmp_path), evaluate={"a": "yes.tsv"})
    run = trainer()
    run.test(model, data, verbose=False)
    assert {"test/spearman_a", "baseline/spearman_a"} <= set(run.callback_metrics)
    assert "test/loss" not in run.callback_metrics
    assert "test/loss" not in model.protocol()


def test_a_limited_evaluation_is_of_what_it_saw(tmp_path):
    """A batch of groups, and one of pairs, in which some of the sets have no member."""
    model = tiny(examples=0)
    data = SimilarGroups(
        files=["groups.jsonl"],
        root=files(tmp_path),
        test_share=0.4,
        evaluate={"a": "yes.tsv", "b": "nli.tsv"},
        batch_size=4,
        val_batch_size=5,
    )
    run = trainer(limit_test_batches=1, limit_val_batches=1)
    run.test(model, data, verbose=False)
    found = {k: float(v) for k, v in run.callback_metrics.items()}
    assert {"test/spearman_a", "baseline/spearman_a"} <= set(found)
    assert not {"test/spearman_b", "baseline/spearman_b"} & set(found)
    assert all(math.isfinite(value) for value in found.values())
    groups = data.groups("test")[:5]
    cosines = model.similarity([g[0] for g in groups], [g[1] for g in groups])
    top1 = (cosines.argmax(1) == torch.arange(5)).float().mean().item()
    assert found["test/top1"] == pytest.approx(top1)
    assert "5 held-out" in model.protocol()["test/top1"]
    run.validate(model, data, verbose=False)
    assert math.isfinite(run.callback_metrics["val/spearman"])


def test_two_processes_evaluate_like_one(tmp_path):
    """Numbers of pairs that are not even."""
    model = tiny(examples=3)
    found = {}
    for processes in (1, 2):
        data = SimilarGroups(
            files=["groups.jsonl"],
            root=files(tmp_path),
            val_share=0.3,
            test_share=0.4,
            evaluate={"a": "yes.tsv", "b": "nli.tsv"},
            batch_size=4,
            val_batch_size=5,
        )
        data.setup()
        run = trainer(processes, default_root_dir=str(tmp_path))
        run.validate(model, data, verbose=False)
        values = dict(run.callback_metrics)
        run.test(model, data, verbose=False)
        found[processes] = {k: float(v) for k, v in {**values, **run.callback_metrics}.items()}
    assert found[1] == pytest.approx(found[2], rel=1e-4)
    expected = {"loss", "top1", "spearman", "spearman_a", "spearman_b"}
    assert {f"{s}/{k}" for s in ("val", "test") for k in expected} <= set(found[1])
    assert {"baseline/spearman_a", "baseline/top1", "test/distinct_2"} <= set(found[1])

    # The numbers themselves, from the model's own vectors.
    pairs = data.labelled("test")["b"]
    a, b = (model.encode([getattr(p, side) for p in pairs]) for side in "ab")
    from scipy.stats import spearmanr

    rho = 100 * spearmanr((a * b).sum(1), [p.label for p in pairs]).statistic
    assert found[1]["test/spearman_b"] == pytest.approx(rho, abs=1e-3)
    groups = data.groups("test")
    cosines = model.similarity([g[0] for g in groups], [g[1] for g in groups])
    top1 = (cosines.argmax(1) == torch.arange(len(groups))).float().mean().item()
    assert found[1]["test/top1"] == pytest.approx(top1)


# Runs


def config(tmp_path, name="tiny", **model):
    options = {**TINY, "dropout": 0.1, "lr": 0.003, "lr_schedule": {5: 1.0, 40: 0.1}, **model}
    content = {
        "seed_everything": 3,
        "model": {"class_path": "zoo.RoFormerSim", "init_args": options},
        "data": {
            "class_path": "zoo.data.SimilarGroups",
            "init_args": {"files": ["groups.jsonl"], "root": files(tmp_path), "batch_size": 8,
                          "noise": 0.5, "evaluate": {"yes": "yes.tsv"}},
        },
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 14, "log_every_n_steps": 5,
                    "val_check_interval": 3, "check_val_every_n_epoch": None,
                    "enable_progress_bar": False, "enable_model_summary": False},
        "ema": {"decay": 0.9},
    }  # fmt: skip
    path = tmp_path / f"{name}.yaml"
    path.write_text(json.dumps(content))
    return path


def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path, zoo_cli):
    """Noise, choices, order and dropout all start again in the middle of an epoch."""
    path = config(tmp_path)
    for run, *steps in (("whole", 14), ("parts", 8, 14)):
        for number, count in enumerate(steps):
            flags = ["--run_dir", run, "--trainer.max_steps", count]
            flags += ["--ckpt_path", "last"] if number else []
            code, _, err = zoo_cli("fit", "-c", path, *flags)
            assert code == 0, err
    a, b = (
        torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("whole", "parts")
    )
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, b[part][key]) for key, value in a[part].items())
    assert Path("whole/metrics.csv").read_text() == Path("parts/metrics.csv").read_text()


def test_weights_and_vocabulary_come_from_init_and_from_checkpoints(tmp_path, zoo_cli):
    first = tiny()
    first.tokenizer.adopt([*TOKENS[:5], *reversed(TOKENS[5:])])

    # From `init` into another model, on data that would have given another vocabulary.
    zoo.save_pretrained(first, "exported")
    path = config(tmp_path, "second", init=str(Path("exported").resolve()), lr=1e-30)
    code, _, err = zoo_cli(
        "fit", "-c", path, "--run_dir", "second", "--data.files", '["more.tsv"]',
        "--trainer.max_steps", 1, "--trainer.log_every_n_steps", 1,
        "--trainer.val_check_interval", 1,
    )  # fmt: skip
    assert code == 0, err
    second = zoo.load("second")
    assert second.tokenizer.tokens == first.tokenizer.tokens
    torch.testing.assert_close(second.encode(texts(5)), first.encode(texts(5)))

    # A model that was loaded keeps its weights when it is trained on, although it had an `init`.
    with torch.no_grad():
        second.net.pooler.weight.mul_(2)
    doubled = second.net.pooler.weight.clone()
    data = SimilarGroups(files=["more.tsv"], root=str(tmp_path), batch_size=8)
    trainer(max_steps=1, limit_val_batches=0).fit(second.train(), data)
    torch.testing.assert_close(second.net.pooler.weight, doubled)

    # A test takes the checkpoint's vocabulary, whatever its data are.
    for data in ("groups.jsonl", "more.tsv"):
        code, _, err = zoo_cli(
            "test", "--ckpt_path", "second", "--data.files", json.dumps([data]),
            "--data.test_share", 0.4,
        )  # fmt: skip
        assert code == 0, err
        results = json.loads(Path("second/results.json").read_text())
        pairs = SimilarGroups(root=str(tmp_path), files=[data], evaluate={"yes": "yes.tsv"})
        pairs.setup()
        labelled = pairs.labelled("test")["yes"]
        a, b = (first.encode([getattr(p, side) for p in labelled]) for side in "ab")
        from zoo.simbert.evaluation import spearman

        expected = spearman((a * b).sum(1), torch.tensor([p.label for p in labelled]))
        assert results["metrics"]["test/spearman_yes"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("steps", [1, pytest.param(200, marks=pytest.mark.slow)])
def test_a_student_takes_the_cosines_of_texts_it_never_saw(steps, tmp_path):
    """val/distil is the formula on held-out groups; it falls to a tenth, and val/loss falls too."""
    teacher = tiny("SentenceSimilarity", pooler="mean", seed=3)
    zoo.save_pretrained(teacher, tmp_path / "teacher")
    rows = [{"text": a, "synonyms": [a[::-1]]} for a in texts(400, seed=5, shortest=4)]
    lines = [
        json.dumps(row, ensure_ascii=False) for row in rows if row["text"] != row["synonyms"][0]
    ]
    (tmp_path / "many.jsonl").write_text("\n".join(lines), encoding="utf-8")
    shared = {"root": str(tmp_path), "batch_size": 32, "val_batch_size": 200}
    data = SimilarGroups(files=["many.jsonl"], val_share=0.2, test_share=0, **shared)
    options = {"hidden": 32, "pooler": "mean", "std": 0.05, "lr": 0.003}
    model = tiny(teacher=str(tmp_path / "teacher"), **options)

    def distance():
        held_out = [text for group in data.groups("val") for text in group]
        difference = model.similarity(held_out, held_out) - teacher.similarity(held_out, held_out)
        return 100 * difference.square().mean().item()

    data.setup()
    before = distance()
    found = []
    model.on_validation_end = lambda: found.append(dict(model.trainer.callback_metrics))
    every = {"val_check_interval": max(steps // 2, 1), "check_val_every_n_epoch": None}
    trainer(max_steps=steps, **every).fit(model.train(), data)
    assert found[-1]["val/distil"].item() == pytest.approx(distance(), rel=1e-3)
    if steps > 1:
        assert distance() < before / 10
        assert found[-1]["val/loss"] < found[0]["val/loss"]


@pytest.mark.parametrize("objective", ["similar", "mlm"])
def test_a_run_says_what_can_be_done_next(objective, tmp_path, zoo_cli):
    path = config(tmp_path, objective=objective)
    data = [] if objective == "similar" else ["--data", "Sentences"]
    data += ["--data.root", tmp_path, "--data.files", '["groups.jsonl"]', "--data.batch_size", 8]
    flags = ["-c", path, *data, "--run_dir", "run", "--trainer.max_steps", 1]
    code, _, err = zoo_cli("fit", *flags, "--trainer.val_check_interval", 1)
    assert code == 0, err
    assert ("zoo paraphrase run TEXT)" in err) == (objective == "similar")
    assert "zoo paraphrase run)" not in err


def test_a_test_shows_some_paraphrases(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    caplog.set_level(logging.INFO)
    data = SimilarGroups(files=["groups.jsonl"], root=files(tmp_path), test_share=0.5)
    run = trainer(default_root_dir=str(tmp_path))
    run.test(tiny(examples=5), data, verbose=False)
    written = (tmp_path / "paraphrases.txt").read_text(encoding="utf-8").splitlines()
    sources = [i for i, line in enumerate(written) if not line.startswith(" ")]
    assert len(sources) == 5
    expected = [line for i in sources[:3] for line in written[i : i + 4]]
    assert "\n".join(expected) in caplog.text
    assert written[sources[3]] not in caplog.text


def test_a_model_learns_to_write_and_to_retrieve():
    """Sentences and their reverses: what a source is paired with can be read from it."""
    model = tiny(std=0.05, hidden=32, heads=2, lr=0.01)
    optimizer = model.configure_optimizers()
    model.train()
    first = texts(16, seed=1, shortest=3, longest=4)
    many = [t for a in first for t in (a, a[::-1])]
    sources = model.tokenizer.encode(many, 20)
    batch = seq2seq_batch(
        sources,
        [sources[i ^ 1][1:] for i in range(32)],
        pad=0,
        group=[i // 2 for i in range(32)],
        texts=many,
        index=range(32),
    )
    for _ in range(150):
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    written = [model.paraphrase(a, 1, temperature=0) for a in many]
    right = [bool(w) and w[0].text == many[i ^ 1] for i, w in enumerate(written)]
    assert sum(right) >= 0.9 * sum(a != a[::-1] for a in many)
    found = model.similar(first, many, k=2)
    assert all(
        {t for t, _ in row} == {a, a[::-1]}
        for a, row in zip(first, found, strict=True)
        if a != a[::-1]
    )


def test_a_student_takes_the_cosines_and_goes_on_writing():
    """Stage 2: the matrix of cosines nears the teacher's, the loss of the tokens does not rise."""
    teacher, model = tiny("SentenceSimilarity", seed=3), tiny(hidden=32, lr=0.005)
    model._teacher = [teacher]
    batch = pair_batch(model, n=6)
    optimizer = model.configure_optimizers()
    history = []
    for _ in range(120):
        parts = model.losses(batch)
        history.append({k: v.item() for k, v in parts.items()})
        optimizer.zero_grad()
        sum(parts.values()).backward()
        optimizer.step()
    assert set(history[0]) == {"lm", "distil"}
    assert history[-1]["distil"] < history[0]["distil"] / 10
    assert history[-1]["lm"] < history[0]["lm"]


KINDS = {
    "similar": lambda **options: SimilarGroups(val_share=0.2, test_share=0.2, **options),
    "labelled": lambda **options: LabelledPairs(val_share=0.2, test_share=0.2, **options),
    "mlm": lambda **options: Sentences(val_share=0.2, **options),
    "simcse": lambda **options: Sentences(purpose="simcse", val_share=0.2, **options),
}


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("given", KINDS)
def test_every_model_takes_its_own_data_and_names_it_with_others(given, wanted, tmp_path):
    name = "SentenceSimilarity" if wanted == "labelled" else "RoFormerSim"
    model = tiny(name, **({} if wanted == "labelled" else {"objective": wanted}))
    data = KINDS[given](files=["yes.tsv"], root=files(tmp_path), batch_size=4)
    if name == "RoFormerSim":
        model.examples = 0
    run = trainer(max_steps=1, limit_val_batches=0)
    if given == wanted:
        run.fit(model.train(), data)
    else:
        with pytest.raises(ValueError, match=f"takes {PURPOSES[wanted]}, and not "):
            run.fit(model, data)
    if given in ("similar", "labelled"):
        run.test(model, data, verbose=False)
        assert "test/spearman_yes" in run.callback_metrics


@pytest.mark.parametrize("data", [Digits, TextLines])
@pytest.mark.parametrize("name", ["SimBERT", "SentenceSimilarity"])
def test_other_families_data_are_refused(name, data):
    run = trainer(max_steps=1)
    for verb in (run.fit, run.validate, run.test):
        with pytest.raises(ValueError, match=f"takes .*, and not {data.__name__}"):
            verb(tiny(name), data(batch_size=4))


@pytest.mark.parametrize("name", ["RoFormerSim", "SentenceSimilarity"])
def test_predictions_are_the_vectors_of_the_test_items(name, tmp_path):
    model = tiny(name, positions="learned")
    shared = {"root": files(tmp_path), "val_batch_size": 5}
    groups = SimilarGroups(files=["yes.tsv"], val_share=0, test_share=0.4, batch_size=4, **shared)
    pairs = LabelledPairs(files=["nli.tsv"], evaluate={"a": "yes.tsv"}, batch_size=4, **shared)
    for data in (groups, pairs):
        found = trainer().predict(model, data)
        found = found if isinstance(found[0], list) else [found]
        loaders = data.test_dataloader()
        assert len(found) == len(loaders) == (2 if data is groups else 1)
        for batches, loader in zip(found, loaders, strict=True):
            expected = model.encode([text for batch in loader for text in batch.texts])
            torch.testing.assert_close(torch.cat(batches), expected, rtol=0, atol=2e-6)


def test_predictions_go_to_a_file(tmp_path, zoo_cli):
    zoo.save_pretrained(tiny(), "model")
    data = ["--data", "SimilarGroups", "--data.files", '["more.tsv"]', "--data.root"]
    flags = ["--ckpt_path", "model", *data, files(tmp_path), "--run_dir", "run"]
    code, _, err = zoo_cli("predict", *flags, "--trainer.accelerator", "cpu")
    assert code == 0, err
    first = torch.load("run/predictions.pt", weights_only=True)[0]
    assert first[0].shape[1] == 16


def test_a_test_without_anything_to_test_on_is_told(tmp_path):
    data = LabelledPairs(files=["yes.tsv"], root=files(tmp_path), batch_size=4)
    with pytest.raises(ValueError, match=r"nothing to test on: give --data\.evaluate .*test_share"):
        trainer().test(tiny("SentenceSimilarity"), data, verbose=False)


def test_mistakes_are_told(tmp_path, mistake):
    path = config(tmp_path)
    told = mistake("fit", "-c", path, "--model.objective", "mlm")
    assert "RoFormerSim with --model.objective mlm takes Sentences, and not SimilarGroups" in told
    assert "no such checkpoint" in mistake("fit", "-c", path, "--model.init", "nowhere")
    zoo.save_pretrained(tiny("SimBERT", hidden=8), "other")
    assert "init=other" in mistake("fit", "-c", path, "--model.init", "other")
    for message, name, options in (
        ("chunk=3: give an even number", "SimBERT", {"chunk": 3}),
        (r"matryoshka=\[17\]", "RoFormerSim", {"matryoshka": [17]}),
        ("matryoshka=.* has no effect", "SentenceSimilarity", {"head": "sbert", "matryoshka": [4]}),
        ("head='sbart'", "SentenceSimilarity", {"head": "sbart"}),
        ("has no effect with objective=mlm", "RoFormerSim", {"objective": "mlm", "teacher": "x"}),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(name, **options)
