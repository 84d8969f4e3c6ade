"""Numbers of settings against float64, and the settings as they are worn."""

import pytest
import torch

import zoo
from zoo.cli.commands import sample_work
from zoo.tuning.halving import OffError
from zoo.tuning.inference import InferenceWork, Work, in_precision, worn
from zoo.tuning.settings import Setting, bf16_is_slow, dress
from zoo.tuning.training import BOUNDS, TrainingSteps, off

OWN = {
    "image_size": 8, "channels": 1, "width": 8, "multipliers": [1, 2], "groups": 4, "blocks": 1,
    "attention_levels": [1], "timesteps": 10, "levels": 17,
}  # fmt: skip


def ddpm(**changed):
    torch.manual_seed(0)
    return zoo.DDPM(**{**OWN, **changed})


def steps(model):
    data = zoo.data.Digits(batch_size=8, limit=16)
    default = Setting("32-true", 1, model.channels_last)
    visitor = TrainingSteps(model, data, default, 1e4, accelerator="cpu")
    visitor.refer()
    return visitor


def test_a_training_step_is_compared_with_float64_without_dropout():
    model = ddpm(dropout=0.5, channels_last=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    visitor = steps(model)
    assert visitor.visit(visitor.default) > 0
    assert visitor.wide
    assert 0 < visitor.errors[visitor.default] < 1e-5  # float32 against float64
    contiguous = Setting("32-true", 1, False)
    visitor.visit(contiguous)
    assert visitor.errors[contiguous] < 1e-5
    half = Setting("bf16-mixed", 1, True)
    visitor.visit(half)
    assert 1e-4 < visitor.errors[half] < BOUNDS["bf16-mixed"]
    for name, value in model.state_dict().items():  # nothing was trained
        assert torch.equal(value, before[name])


def test_the_data_are_read_once_and_no_turn_tells_of_them(monkeypatch, capfd, tmp_path):
    """A vocabulary was built in every turn, and its bar shown in the middle of the search's."""
    monkeypatch.setattr("zoo.waiting._LONG", -1.0)  # every wait is long
    letters = "的一是在不了有和人这中大为上个国"
    rows = [f"{letters[i : i + 6]}\t{letters[i + 1 : i + 7]}\n" for i in range(9)]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    torch.manual_seed(0)
    sizes = {"hidden": 8, "layers": 1, "heads": 2, "intermediate": 8, "vocab_size": 32}
    model = zoo.RoFormerSim(objective="mlm", **sizes)
    data = zoo.data.Sentences(
        purpose="mlm", root=str(tmp_path), files=["pairs.tsv"], evaluate={}, batch_size=4
    )
    visitor = TrainingSteps(model, data, Setting("32-true", 1), 1e4, accelerator="cpu")
    visitor.refer()
    assert capfd.readouterr().err.count("build the vocabulary") == 2  # its beginning and its end
    visitor.visit(visitor.default)
    visitor.visit(Setting("bf16-mixed", 1))
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(data, "training_texts", lambda: pytest.fail("read again"))
    assert len(data.vocabulary(32)) == 32


def test_a_turn_of_long_steps_is_one_of_them(monkeypatch):
    taken = []
    monkeypatch.setattr("zoo.tuning.training._wait", lambda module: taken.append(module))
    for long, later in ((1e9, 2), (0.0, 1)):
        monkeypatch.setattr("zoo.tuning.training._LONG", long)
        monkeypatch.setattr("zoo.tuning.training._LONG_ENOUGH", 1e-9)
        visitor, half = steps(ddpm()), Setting("bf16-mixed", 1, False)
        for expected in (2, later):  # a warm-up in the first turn, and the step
            taken.clear()
            visitor.visit(half)
            assert len(taken) == 2 * expected


def test_numbers_that_are_off_are_refused(monkeypatch):
    visitor = steps(ddpm())
    monkeypatch.setitem(BOUNDS, "bf16-mixed", 1e-4)
    with pytest.raises(OffError, match=r"numbers off by 0\.\d%"):
        visitor.visit(Setting("bf16-mixed", 1, False))


def test_off_is_the_larger_of_loss_and_gradient():
    true = {"loss": torch.tensor(10.0), "a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    assert off(true, true) == 0
    assert off({**true, "loss": torch.tensor(11.0)}, true) == pytest.approx(0.1)
    assert off({**true, "b": torch.tensor([[4.5]])}, true) == pytest.approx(0.1)  # 0.5 of norm 5
    assert off({**true, "b": torch.tensor([[torch.nan]])}, true) == float("inf")
    assert off({"loss": true["loss"]}, true) == float("inf")


@pytest.mark.parametrize(("factor", "slow"), [(0.5, False), (1.5, False), (6.0, True)])
def test_bf16_that_is_emulated_is_not_tried(factor, slow):
    now = [0.0]
    turns = iter(range(100))

    def clock():  # the times of float32 and bf16 in turns
        turn = next(turns)
        now[0] += (turn % 2) * (factor if turn % 4 == 3 else 1.0)
        return now[0]

    assert bf16_is_slow(torch.device("cpu"), clock) is slow


def test_worn_is_of_the_block():
    model = ddpm().eval()
    weight = model.net.conv_in.weight
    with worn(model, Setting("bf16", 1, True)):
        assert model.channels_last
        assert torch.is_autocast_enabled("cpu")
        assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.channels_last
    assert weight.is_contiguous()
    assert not torch.is_autocast_enabled("cpu")


def test_dressing_is_as_if_the_model_were_made_so():
    model, made = ddpm(), ddpm(channels_last=True)
    dress(model, Setting("bf16-mixed", 1, True))
    assert model.hparams == made.hparams
    for mine, other in zip(model.parameters(), made.parameters(), strict=True):
        assert mine.stride() == other.stride()


def test_a_verbs_result_is_compared_with_float64():
    visitor = InferenceWork(ddpm().eval(), sample_work(4))
    visitor.refer()
    assert visitor.visit(Setting("32", 1, False)) > 0
    assert visitor.wide
    half = Setting("bf16", 1, True)
    visitor.visit(half)
    assert 1e-4 < visitor.errors[half] < 0.03


def test_a_result_that_is_off_is_refused():
    model = ddpm().eval()
    wrong = Work("x", lambda m, n: torch.ones(n) * (1 + torch.is_autocast_enabled("cpu")), 4)
    visitor = InferenceWork(model, wrong)
    visitor.refer()
    with pytest.raises(OffError, match=r"numbers off by 100\.0%"):
        visitor.visit(Setting("bf16", 1, False))


def test_a_named_precision_measures_nothing():
    with in_precision(ddpm().eval(), "bf16", sample_work(4)) as setting:
        assert torch.is_autocast_enabled("cpu")
    assert setting.precision == "bf16"
