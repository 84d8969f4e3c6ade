import json
import math

import lightning.pytorch as L
import pytest
import torch

import zoo
from tests.processes import in_new_process
from zoo.data import MaskedBatch, MaskedSentences
from zoo.flash.masking import mask_tokens
from zoo.flash.module_mlm import FlashMLM
from zoo.layers.counter_rng import uniform

TINY = {"dim": 32, "depth": 2, "head_size": 16, "chunk": 16, "lr": 5e-3, "init_std": 0.1}


@pytest.fixture
def table(tmp_path):
    """Pairs whose first sentence says its class."""
    rows = [
        f"{'xyz'[i % 3]}{chr(97 + i % 7)}{chr(97 + i // 7 % 25)}b\tc{chr(97 + i // 9)}\t{i % 3}"
        for i in range(400)
    ]
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]))
    return str(path)


def trainer(**options):
    return L.Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            **options,
        }
    )


def test_masks_are_chosen_as_bert_does():
    n = 200_000
    tokens = torch.full((1, n), 7)
    seen, chosen = mask_tokens(
        tokens, torch.ones(1, n, dtype=torch.bool), uniform(1, torch.zeros(1).long(), 0, (n, 3)),
        rate=0.15, mask=50, symbols=50,
    )  # fmt: skip
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.003)
    masked = (seen[chosen] == 50).float().mean().item()
    left = (seen[chosen] == 7).float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.01)
    assert left == pytest.approx(0.1 + 0.1 / 50, abs=0.01)
    assert len(seen[chosen].unique()) == 51
    assert (seen[~chosen] == 7).all()


def test_ends_are_not_guessed(table):
    data = MaskedSentences(root=table, batch_size=64)
    model = FlashMLM(vocab_size=len(data.vocabulary) + 1, mask_rate=0.99, **TINY)
    for batch in data.train_dataloader():
        _, targets, scored = model.losses(batch, torch.rand(*batch.tokens.shape, 3))
        assert (targets[scored] != data.vocabulary.end).all()
        assert scored.sum() > 0.9 * (batch.lengths - 1).sum()


def test_words_are_masked_as_a_whole():
    words = torch.tensor([[0, 0, 2, 3, 3, 3, 6, 7]]).repeat(500, 1)
    valid = torch.arange(8).expand(500, -1) < 7
    _, chosen = mask_tokens(
        torch.ones_like(words), valid, torch.rand(500, 8, 3), rate=0.5, mask=9, symbols=9,
        words=words,
    )  # fmt: skip
    for row in chosen.tolist():
        assert row[0] == row[1]
        assert row[3] == row[4] == row[5]
        assert not row[7]
    assert 0.4 < chosen[:, 0].float().mean() < 0.6
    assert (chosen[:, 0] != chosen[:, 2]).any()


def test_the_words_of_a_batch_are_masked_as_a_whole():
    model = FlashMLM(vocab_size=9, mask_rate=0.5, **TINY)
    words = torch.tensor([[0, 0, 0, 3, 3, 3, 6]]).repeat(40, 1)
    batch = MaskedBatch(
        torch.randint(0, 8, (40, 7)), torch.full((40,), 7), torch.arange(40), words, words[:, 0]
    )
    _, _, chosen = model.losses(batch, torch.rand(40, 7, 3))
    assert (chosen[:, :3] == chosen[:, :1]).all()
    assert (chosen[:, 3:6] == chosen[:, 3:4]).all()
    assert 0 < chosen[:, 0].sum() < 40


@pytest.mark.parametrize("kind", ["flash", "flash_quad", "transformer"])
@torch.no_grad()
def test_evaluation_does_not_depend_on_batches_and_padding(table, kind):
    torch.manual_seed(0)
    heads = 2 if kind == "transformer" else None
    model = FlashMLM(vocab_size=31, kind=kind, heads=heads, **TINY)
    results = []
    for size in (1, 7, 40):
        data = MaskedSentences(root=table, batch_size=16, val_batch_size=size)
        model = FlashMLM(
            **{**model.hparams, "vocab_size": len(data.vocabulary) + 1}
        ) if not results else model  # fmt: skip
        results.append(trainer().validate(model, data, verbose=False)[0])
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-4)


def test_pretrain_fill_classify(table, tmp_path):
    data = MaskedSentences(root=table, batch_size=32)
    size = len(data.vocabulary) + 1
    torch.manual_seed(0)
    model = FlashMLM(vocab_size=size, **TINY)
    fit = trainer(max_steps=60, limit_val_batches=0)
    fit.fit(model, data)
    fit.save_checkpoint(tmp_path / "pretrained.ckpt")
    (numbers,) = trainer().test(model, data, verbose=False)
    assert numbers["test/accuracy"] > 3 / size
    assert "15% chosen" in model.protocol()["test/accuracy"]
    assert numbers["test/loss"] < numbers["baseline/loss"] < math.log(size)
    p = data.unigram()
    assert p.sum().item() == pytest.approx(1)
    assert p[data.vocabulary.end] == p.min()
    assert numbers["test/accuracy"] >= numbers["baseline/accuracy"] > 1 / size

    model = zoo.load(tmp_path / "pretrained.ckpt")
    one, two = model.fill_mask(["xa[MASK]b", "[MASK]cd[MASK]bbbbb"], k=3)
    assert [len(one), len(two)] == [1, 2]
    tokens = model._encode("xa[MASK]b")[None]
    best = model(tokens)[0, 2].softmax(0).topk(3)
    assert [p for _, p in one[0]] == pytest.approx(best.values.tolist(), rel=1e-4)
    symbols = [*model.vocabulary.symbols, "[MASK]"]
    assert [s for s, _ in one[0]] == [symbols[i] for i in best.indices.tolist()]

    torch.manual_seed(1)
    checkpoint = str(tmp_path / "pretrained.ckpt")
    pairs = MaskedSentences(root=table, labels=True, vocabulary_of=checkpoint, batch_size=32)
    classifier = FlashMLM(vocab_size=size, num_classes=3, pretrained=checkpoint, **TINY)
    trainer(max_steps=60, limit_val_batches=0).fit(classifier, pairs)
    (numbers,) = trainer().test(classifier, pairs, verbose=False)
    assert numbers["test/accuracy"] > 0.9
    with pytest.raises(ValueError, match="classifier guesses no"):
        classifier.fill_mask(["a"])


def test_finetuning_begins_with_the_pretrained_network(table, tmp_path):
    data = MaskedSentences(root=table, batch_size=32)
    size = len(data.vocabulary) + 1
    model = FlashMLM(vocab_size=size, **TINY)
    model.words.use(data.vocabulary)
    zoo.save_pretrained(model, tmp_path / "out")
    other = FlashMLM(vocab_size=size, num_classes=2, pretrained=str(tmp_path / "out"), **TINY)
    other._begin_with(str(tmp_path / "out"))
    for name, weight in model.net.state_dict().items():
        assert torch.equal(other.net.state_dict()[name], weight)
    third = FlashMLM(vocab_size=size, **{**TINY, "dim": 16})
    with pytest.raises(ValueError, match="network is another: dim=32 there, 16 here"):
        third._begin_with(str(tmp_path / "out"))


@pytest.mark.parametrize(
    "other",
    [
        {"score": "laplace"},
        {"pairing": "interleaved"},
        {"chunk": 8},
        {"global_norm": "chunk"},
        {"min_length": 3},
        {"rotary_dim": 8},
        {"norm_eps": 1e-3},
    ],
)
def test_another_function_of_the_same_weights_is_refused(other, tmp_path):
    zoo.save_pretrained(FlashMLM(vocab_size=9, **TINY), tmp_path / "out")
    FlashMLM(vocab_size=9, **{**TINY, "dropout": 0.1})._begin_with(str(tmp_path / "out"))
    (name,) = other
    with pytest.raises(ValueError, match=f"out: the network is another: {name}="):
        FlashMLM(vocab_size=9, **{**TINY, **other})._begin_with(str(tmp_path / "out"))


def test_one_text_is_no_list_of_its_characters():
    with pytest.raises(ValueError, match=r"fill_mask takes a list of texts, not 'ab': give"):
        FlashMLM(vocab_size=9, **TINY).fill_mask("ab")


CONFIG = """\
seed_everything: 0
model:
  class_path: zoo.FlashMLM
  init_args: {vocab_size: SIZE, dim: 16, depth: 2, head_size: 16, chunk: 16, lr: 0.005}
data:
  class_path: zoo.data.MaskedSentences
  init_args: {root: pairs.tsv, batch_size: 16}
trainer:
  accelerator: cpu
  max_steps: 6
  log_every_n_steps: 2
  enable_progress_bar: false
  enable_model_summary: false
"""


def test_command_line_from_pretraining_to_classes(table, zoo_cli, mistake, tmp_path):
    size = len(MaskedSentences(root=table).vocabulary) + 1
    (tmp_path / "c.yaml").write_text(CONFIG.replace("SIZE", str(size)))
    code, _, err = zoo_cli("fit", "-c", "c.yaml", "--run_dir", "mlm")
    assert code == 0, err
    fit = ["fit", "-c", "c.yaml", "--data.labels", "true", "--data.vocabulary_of", "mlm"]
    fit += ["--model.pretrained", "mlm", "--model.num_classes", 3]
    for run, flags, message in (
        ("a", ["--model.num_classes", 2], "label 2, beyond --model.num_classes=2: set 3"),
        ("b", ["--data.labels", "false"], "--data.labels true"),
        ("c", ["--data.level", "word"], "set --data.level=char"),
    ):
        assert message in mistake(*fit, "--run_dir", run, *flags)
    code, _, err = zoo_cli(*fit, "--run_dir", "pairs")
    assert code == 0, err
    one, two = (zoo.load(run) for run in ("mlm", "pairs"))
    assert one.vocabulary == two.vocabulary
    assert two.classifier.out_features == 3
    code, _, err = zoo_cli("test", "--ckpt_path", "pairs")
    assert code == 0, err
    metrics = json.loads((tmp_path / "pairs" / "results.json").read_text())["metrics"]
    assert metrics.keys() == {
        f"{where}/{what}" for where in ("test", "baseline") for what in ("loss", "accuracy")
    }
    labels = MaskedSentences(root=table, labels=True)
    test = labels.split("test").labels
    most = torch.from_numpy(labels.split("train").labels).bincount().argmax().item()
    assert metrics["baseline/accuracy"] == pytest.approx((test == most).mean(), rel=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_of_a_classifier_that_learns_has_a_gradient(tied):
    """Else DDP would wait for it."""
    model = FlashMLM(vocab_size=9, num_classes=2, tied=tied, head_bias=True, **TINY)
    tokens, lengths = torch.randint(0, 8, (2, 40)), torch.tensor([40, 7])
    batch = MaskedBatch(tokens, lengths, torch.arange(2), tokens, torch.tensor([0, 1]))
    model.training_step(batch, 0).backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == ({"net.head_bias"} if tied else {"net.head.weight", "net.head.bias"})


@pytest.mark.parametrize("k", [0, 10, 50])
def test_more_or_fewer_guesses_than_there_are_symbols_are_refused(k):
    model = FlashMLM(vocab_size=9, **TINY)
    with pytest.raises(ValueError, match=f"k={k}: from 1 to the 9"):
        model.fill_mask(torch.tensor([[1, 8]]), k=k)
    assert len(model.fill_mask(torch.tensor([[1, 8]]), k=9)[0][0]) == 9


@pytest.mark.slow
def test_one_program_serves_the_lengths_of_all_batches():
    in_new_process(compile_for_many_lengths)


def compile_for_many_lengths():
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it goes on without
    compile = torch.nn.Module.compile
    torch.nn.Module.compile = lambda self, **options: compile(self, backend="eager", **options)
    eager, compiled = FlashMLM(vocab_size=9, **TINY), FlashMLM(vocab_size=9, compile=True, **TINY)
    compiled.load_state_dict(eager.state_dict())
    compiled.trainer = trainer()
    compiled.setup("fit")
    for n in (20, 33, 64, 7, 16, 41, 50, 12, 90, 17, 23, 35, 48, 31, 5, 100, 128):
        tokens, lengths = torch.randint(0, 8, (4, n)), torch.randint(2, n + 1, (4,))
        mask = torch.arange(n) < lengths[:, None]
        torch.testing.assert_close(compiled(tokens, mask), eager(tokens, mask), rtol=0, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 0 < graphs < 9
    for model in (eager, compiled):
        model.eval()
    tokens = torch.randint(0, 8, (3, 29), generator=torch.Generator().manual_seed(0))
    assert torch.equal(compiled(tokens), eager(tokens))  # evaluation does not compile
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


@torch.no_grad()
def test_classes_are_those_of_the_mean_over_the_text():
    model = FlashMLM(vocab_size=9, num_classes=2, **TINY).eval()
    tokens, lengths = torch.randint(0, 8, (2, 6)), torch.tensor([6, 4])
    batch = MaskedBatch(tokens, lengths, torch.arange(2), tokens, torch.tensor([0, 1]))
    logits, targets, _ = model.losses(batch, torch.rand(2, 6, 3))
    assert targets.tolist() == [[0], [1]]
    for row, length, got in zip(tokens, lengths.tolist(), logits, strict=True):
        mean = model.net.features(row[None, :length])[0].mean(0)
        torch.testing.assert_close(got[0], model.classifier(mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_rate": 0.0}, "mask_rate=0"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"mask_token": 300}, "mask_token=300"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FlashMLM(**{**TINY, **options})
