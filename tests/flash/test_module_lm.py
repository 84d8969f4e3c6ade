import json
import math
import re

import lightning.pytorch as L
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import zoo
from tests.processes import in_new_process
from tests.test_resume import compare_metrics, differences
from zoo.data import StreamBatch, Synthetic, Text
from zoo.files import visible
from zoo.flash.averages import PredictionAverages
from zoo.flash.module_lm import FlashLM
from zoo.recipes import config_root, list_configs

TINY = {
    "vocab_size": 67, "dim": 32, "depth": 2, "head_size": 16, "chunk": 16, "expansion": 2.0,
    "position_bias": True, "init_std": 0.1,
}  # fmt: skip
CONFIG = """\
seed_everything: 3
model:
  class_path: zoo.FlashLM
  init_args: {vocab_size: 67, dim: 16, depth: 2, head_size: 16, chunk: 16, lr: 0.01}
data:
  class_path: zoo.data.Text
  init_args:
    {sequence_length: 32, batch_size: 4, limit: 20000, val_batch_size: 128, test_lengths: [32, 100]}
trainer:
  accelerator: cpu
  max_steps: 20
  limit_test_batches: 2
  log_every_n_steps: 5
  enable_progress_bar: false
  enable_model_summary: false
checkpoint: {every_n_train_steps: 7}
"""


def tiny(**options):
    torch.manual_seed(0)
    return FlashLM(**{**TINY, **options})


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


@pytest.fixture
def trained(tmp_path):
    """A model that has seen Shakespeare for a few steps."""
    model = tiny(lr=3e-3)
    data = Text(sequence_length=64, batch_size=8, limit=20_000)
    trainer(max_steps=20, limit_val_batches=0).fit(model, data)
    return model.eval()


def test_loss_is_the_mean_over_what_is_scored():
    model = tiny()
    tokens, targets = torch.randint(0, 67, (2, 3, 20))
    scored = torch.rand(3, 20) < 0.5
    batch = StreamBatch(
        tokens, targets.where(scored, -100), torch.zeros_like(tokens), torch.arange(3)
    )
    loss = model.training_step(batch, 0)
    nats = -model(tokens).log_softmax(-1).gather(2, targets[..., None])[..., 0]
    torch.testing.assert_close(loss, nats[scored].mean())


def test_documents_are_kept_apart_if_asked():
    tokens = torch.randint(0, 67, (1, 40))
    docs = (torch.arange(40) >= 13).long()[None]
    batch = StreamBatch(tokens, tokens, docs, torch.arange(1))
    other = StreamBatch(tokens.where(docs == 1, 5), tokens.where(docs == 1, -100), docs, batch[3])
    same = StreamBatch(tokens, other[1], docs, batch[3])
    losses = [
        [model.training_step(b, 0).item() for b in (same, other)]
        for model in (tiny(separate_documents=True), tiny())
    ]
    assert losses[0][0] == losses[0][1]
    assert losses[1][0] != losses[1][1]


def test_only_matrices_decay():
    model = tiny(weight_decay=0.3, sinusoidal=True, norm="scale", bias=True)
    decayed, free = model.configure_optimizers().param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.3
    assert all(names[id(p)].endswith("weight") and p.ndim == 2 for p in decayed["params"])
    assert free["weight_decay"] == 0
    ends = {names[id(p)].split(".")[-1] for p in free["params"]}
    assert ends >= {"gamma", "beta", "g", "position_bias", "bias", "position_scale"}
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
def test_numbers_of_a_test_are_the_mean_nats(trained):
    data = Text(sequence_length=64, test_lengths=[64, 500], val_batch_size=50)
    numbers = {}
    for metrics in trainer(limit_test_batches=3).test(trained, data, verbose=False):
        numbers |= metrics
    for suffix, loader in zip(("", "@500"), data.test_dataloader(), strict=True):
        nats = count = 0
        for i, (tokens, targets, *_) in enumerate(loader):
            if i < 3:
                scored = targets != -100
                logp = trained(tokens).log_softmax(-1)
                each = -logp.gather(2, targets.clamp(min=0)[..., None])[..., 0]
                nats, count = nats + each[scored].double().sum().item(), count + int(scored.sum())
        assert numbers[f"test/loss{suffix}"] == pytest.approx(nats / count, rel=1e-5)
        assert numbers[f"test/bits_per_char{suffix}"] == pytest.approx(nats / count / math.log(2))
        assert numbers[f"test/perplexity{suffix}"] == pytest.approx(math.exp(nats / count))
    assert numbers["baseline/bits_per_char"] == pytest.approx(4.8, abs=0.1)
    assert numbers["test/bits_per_char"] < numbers["baseline/bits_per_char"]
    assert "windows of 64" in trained.protocol()["test/bits_per_char"]


def test_text_goes_round_with_the_weights(trained, tmp_path):
    zoo.save_pretrained(trained, tmp_path / "out")
    again = zoo.load(tmp_path / "out")
    assert again.vocabulary == Text().vocabulary
    prompts = ["ROMEO:", "To be", ""]
    texts = again.generate(prompts, 30, temperature=0.7, seed=5)
    assert texts == trained.generate(prompts, 30, temperature=0.7, seed=5)
    assert max(map(len, texts)) >= 30  # <unk> is one symbol
    assert trained.generate("To be", 30, temperature=0.7, seed=5, first=1) == texts[1:2]


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (b'["byte"]', "has 257 symbols for 67"),
        (b"5", "no vocabulary that the zoo wrote"),
        (b'["number", 1000000000000]', "no vocabulary that the zoo wrote"),
        (b'["char", "</s>", "<unk>", [1]]', "no vocabulary that the zoo wrote"),
        (b'["char"', "delimiter"),
    ],
)
def test_symbols_that_are_none_name_their_file(trained, tmp_path, packed, said):
    folder = zoo.save_pretrained(trained, tmp_path / "out")
    weights = load_file(folder / "model.safetensors")
    weights["words.symbols"] = torch.tensor(list(packed), dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config.pop("sha256", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"out.*{re.escape(said)}"):
        zoo.load(folder)


def test_tokens_in_tokens_out():
    model = tiny()
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    out = model.generate(prompts, 5)
    assert out.shape == (2, 5)
    assert model.training
    with pytest.raises(ValueError, match="no symbols yet"):
        model.generate("text")


def test_prefill_and_step_are_the_logits():
    model = tiny().eval()
    tokens = torch.randint(0, 67, (2, 40))
    whole = model(tokens)
    state = model.init_state(2)
    first, state = model.prefill(tokens[:, :19], state)
    second, state = model.prefill(tokens[:, 19:30], state)
    rest = [model.step(tokens[:, t], state) for t in range(30, 40)]
    got = torch.cat([first, second, torch.stack(rest, 1)], 1)
    torch.testing.assert_close(got, whole, rtol=1e-4, atol=1e-5)


def test_data_with_other_symbols_names_the_flag(trained, tmp_path):
    with pytest.raises(ValueError, match=r"65 symbols, but the model 33: .*vocab_size=65"):
        trainer(max_steps=1).fit(tiny(vocab_size=33), Synthetic(symbols=65))
    data = Text(sequence_length=64, batch_size=8)
    with pytest.raises(ValueError, match=r"--model\.vocab_size=67"):
        trainer(max_steps=1).fit(tiny(vocab_size=50), data)
    (tmp_path / "a.txt").write_text(("".join(map(chr, range(200, 264))) + "\n") * 80)
    with pytest.raises(ValueError, match="other symbols"):
        trainer(max_steps=1).fit(
            trained, Text(root=str(tmp_path), sequence_length=64, batch_size=8)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr=0"),
        ({"betas": [0.9]}, r"betas=\[0.9\]"),
        ({"expansion": 0.0}, "expansion=0"),
        ({"score": "relu"}, "score='relu'"),
        ({"kind": "transformer", "score": "laplace"}, "score=laplace means nothing with kind=tr"),
        ({"kind": "transformer", "norm": "scale"}, "norm=scale means nothing"),
        ({"kind": "transformer", "offsets": False}, "offsets=False means nothing"),
        ({"kind": "flash_quad", "global_part": False}, "global_part=False means nothing with kind"),
        ({"heads": 4}, "heads=4 means nothing with kind=flash: leave it out"),
        ({"kind": "flash_quad", "heads": 1}, "heads=1 means nothing with kind=flash_quad"),
        ({"norm_length": 64}, "norm_length=64 means nothing with kind=flash"),
        ({"kind": "transformer", "min_length": 3}, "min_length=3 means nothing with kind=trans"),
        ({"lr_schedule": {-1: 1.0}}, "lr_schedule"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"prompt": []}, r"prompt=\[\]"),
    ],
)
def test_bad_requests_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny().generate(**{"prompt": [torch.tensor([1])], **options})
    with pytest.raises(ValueError, match=message):
        tiny().stream(**{"prompt": [torch.tensor([1])], **options})  # before a token is asked for


@pytest.mark.parametrize("kind", ["flash", "flash_quad", "transformer"])
@pytest.mark.parametrize("recipe", [c for c in list_configs() if c.startswith("flash/")])
def test_the_kind_alone_makes_a_recipe_a_baseline(recipe, kind):
    model = yaml.safe_load((config_root() / f"{recipe}.yaml").read_text())["model"]
    sizes = {"vocab_size": 9, "dim": 32, "depth": 2, "head_size": 16, "kind": kind}
    cls = getattr(zoo, model["class_path"].removeprefix("zoo."))
    assert cls(**{**model["init_args"], **sizes}).net.config.kind == kind


def test_evaluation_keeps_documents_apart_if_asked():
    tokens, docs = torch.randint(0, 67, (1, 40)), (torch.arange(40) >= 13).long()[None]
    targets = tokens.where(docs == 1, -100)
    for asked in (True, False):
        model, sums = tiny(separate_documents=asked), []
        for x in (tokens, tokens.where(docs == 1, 5)):
            averages = PredictionAverages("val")
            averages.add(*model.predictions(StreamBatch(x, targets, docs, torch.arange(1))))
            sums.append(averages._sums[0].item())
        assert (sums[0] == sums[1]) == asked


def test_command_line_from_training_to_text(tmp_path, zoo_cli, mistake):
    (tmp_path / "c.yaml").write_text(CONFIG)
    code, _, err = zoo_cli("fit", "-c", "c.yaml", "--run_dir", "run")
    assert code == 0, err
    code, _, err = zoo_cli("test", "--ckpt_path", "run")
    assert code == 0, err
    assert "bits_per_char@100" in err
    code, out, err = zoo_cli("generate", "run", "-p", "ROMEO:", "-n", 40, "--seed", 1)
    assert code == 0, err
    assert out.startswith("ROMEO:")
    expected = zoo.load("run").generate("ROMEO:", 40, 0.8, seed=1, stop_at_end=False)[0]
    assert out == f"ROMEO:{expected}\n"
    assert "40 symbols" in err
    assert "unknown" not in err
    code, out, err = zoo_cli("generate", "run", "-p", "\u65e5\u672c ROMEO", "-n", 3)
    assert "2 of the prompt's 8 symbols are unknown to it" in err
    code, out, err = zoo_cli("generate", "run", "-p", "ROMEO:", "--top_p", 2)
    assert (code, out) == (2, "")
    assert "top_p=2.0" in mistake("generate", "run", "--top_p", 2)


def test_control_characters_of_a_model_of_bytes(tmp_path, zoo_cli, monkeypatch):
    """Its first samples hold every byte: they are no end of the report, nor steer a terminal."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    code, _, err = zoo_cli("fit", "-c", "c.yaml", "--run_dir", "run", "--data.level", "byte",
                           "--samples.n", 4, "--trainer.max_steps", 1)  # fmt: skip
    assert code == 0, err
    (table,) = (tmp_path / "run" / "samples").iterdir()
    assert re.search(r"\\x[01]", table.read_text())
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", table.read_text())
    assert (tmp_path / "run" / "report.html").is_file()

    ask = ("generate", "run", "-p", "\x1b[1mA", "-n", 100)
    piped = zoo_cli(*ask)[1]
    assert "\x1b" in piped
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = zoo_cli(*ask)[1]
    assert shown.startswith(r"\x1b[1mA")
    assert shown == visible(piped)


@pytest.mark.parametrize("level", ["byte", "word", "wordpunct"])
def test_typewriter_writes_what_decoding_gives(level):
    from zoo.data.text.vocabulary import Vocabulary
    from zoo.flash.typewriter import Typewriter

    text = "Wär' es so , ja ? nein ." if level == "word" else "Wär' es so, ja? nein."
    words = Vocabulary.of([text], level)
    typewriter = Typewriter(words)
    numbers = words.encode(text)
    typed = "".join(typewriter.type(int(n)) for n in numbers)
    assert typed.lstrip() == words.decode(numbers)


@pytest.mark.slow
def test_compiled_model_is_the_same():
    in_new_process(compile_the_model)


def compile_the_model():
    results = []
    for compile in (False, True):
        model = tiny(compile=compile, lr=1e-3)
        trainer(max_steps=3, limit_val_batches=0).fit(
            model, Text(sequence_length=64, batch_size=8, limit=10_000)
        )
        results.append(model.state_dict())
    for name, weight in results[0].items():
        torch.testing.assert_close(results[1][name], weight, rtol=1e-3, atol=1e-5)
    eager, compiled = tiny().train(), tiny().train()
    compiled.net.compile_layers()
    x = torch.randint(0, 67, (2, 100))
    torch.testing.assert_close(compiled(x), eager(x), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_stopped_and_resumed_ends_with_the_same_bits(tmp_path, zoo_cli):
    (tmp_path / "c.yaml").write_text(CONFIG)
    for run, stops in (("whole", [20]), ("parts", [5, 13, 20])):
        for stop in stops:
            command = ["fit", "-c", "c.yaml", "--run_dir", run, "--ckpt_path", "last"]
            code, _, err = zoo_cli(*command, "--trainer.max_steps", stop)
            assert code == 0, err
    whole, parts = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)
        for run in ("whole", "parts")
    )
    assert whole["global_step"] == 20
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert differences(whole[part], parts[part]) == []
    compare_metrics(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_two_processes_learn_and_count_as_one():
    trained, numbers = [], []
    for processes in (1, 2):
        model = tiny(lr=3e-3)
        data = Text(sequence_length=32, batch_size=8 // processes, limit=5000, val_batch_size=30)
        options = {"devices": processes, "strategy": "ddp_fork" if processes > 1 else "auto"}
        trainer(max_steps=4, limit_val_batches=0, **options).fit(model, data)
        trained.append(model.state_dict())
        tester = trainer(**options)
        tester.validate(model, data, verbose=False)
        numbers.append({name: float(value) for name, value in tester.callback_metrics.items()})
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight, rtol=1e-3, atol=2e-5)
    for name, number in numbers[0].items():
        assert numbers[1][name] == pytest.approx(number, rel=1e-4)


@pytest.mark.slow
def test_what_is_learnt_holds_beyond_the_trained_length():
    torch.manual_seed(0)
    model = FlashLM(
        vocab_size=67, dim=64, depth=4, head_size=64, chunk=64, position_bias=True, init_std=0.05,
        lr=3e-3,
    )  # fmt: skip
    data = Text(sequence_length=256, batch_size=4, test_lengths=[256, 1024, 4096])
    trainer(max_steps=200, limit_val_batches=0).fit(model, data)
    numbers = {}
    for metrics in trainer().test(model, data, verbose=False):
        numbers |= metrics
    bits = [numbers[f"test/bits_per_char{suffix}"] for suffix in ("", "@1024", "@4096")]
    assert bits[0] < 4.0 < numbers["baseline/bits_per_char"]
    assert max(bits) < bits[0] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("global_part", [True, False])
def test_recall_across_chunks_is_the_global_parts(global_part):
    config = yaml.safe_load((config_root() / "flash/recall-64.yaml").read_text())
    torch.manual_seed(0)
    model = FlashLM(**{**config["model"]["init_args"], "global_part": global_part})
    data = Synthetic(**config["data"]["init_args"])
    trainer(max_steps=600, limit_val_batches=0, gradient_clip_val=1.0).fit(model, data)
    (numbers,) = trainer().test(model, data, verbose=False)
    if global_part:
        assert numbers["test/accuracy"] > 0.9
    else:  # one of 16 values
        assert numbers["test/accuracy"] == pytest.approx(1 / 16, abs=0.05)
    assert numbers["baseline/accuracy"] == pytest.approx(1 / 16)
