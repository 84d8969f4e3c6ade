"""The table at the start: what it says is what the training then holds."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer

import zoo
from zoo.training import EMA
from zoo.training.start import held_bytes, state_bytes


def held(state):
    """Bytes of all tensors of an optimiser's state."""
    return sum(
        value.numel() * value.element_size()
        for each in state.values()
        for value in each.values()
        if isinstance(value, torch.Tensor)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.Adam(p, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, centered=True),
        lambda p: torch.optim.Adagrad(p),
    ],
)
def test_an_optimisers_state_is_known_before_its_first_step(make):
    network = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3, bias=False))
    optimizer = make(network.parameters())
    before = torch.get_rng_state()
    expected = state_bytes(optimizer)
    assert torch.equal(before, torch.get_rng_state())
    network(torch.ones(2, 7)).sum().backward()
    optimizer.step()
    assert expected == held(optimizer.state)
    assert state_bytes(optimizer) == expected


class Watch(Callback):
    def on_train_start(self, trainer, pl_module):
        self.expected = held_bytes(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.optimisers = sum(held(o.state) for o in trainer.optimizers)


def test_two_optimisers_and_averages_are_counted():
    model = zoo.WGAN(
        network="mlp", features=2, latent_dim=2, generator_widths=[8], critic_widths=[8],
        n_critic=2, critic_batch=16, generator_batch=16,
    )  # fmt: skip
    watch = Watch()
    Trainer(
        accelerator="cpu", max_steps=4, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[EMA(0.9), watch],
    ).fit(model, zoo.data.Toy2D(name="8gaussians", batch_size=32))  # fmt: skip
    generator = sum(p.numel() for p in model.generator.parameters())
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert watch.expected["optimiser"] == watch.optimisers > 0
    assert watch.expected["gradients"] == weights
    assert watch.expected["averages"] == 4 * generator
    assert watch.expected["weights"] >= weights


def test_a_run_begins_with_a_table_and_has_a_line_after_20_steps(zoo_cli, tiny):
    short = ("--trainer.max_steps", 25, "--trainer.enable_model_summary", "true")
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "run", *short)
    assert code == 0, err
    lines = [line.removeprefix("INFO: ").strip() for line in err.splitlines()]
    table = {line for line in lines if line.startswith(("parameters: ", "memory: ", "steps: "))}
    model = zoo.load("run")
    count = sum(p.numel() for p in model.parameters())
    assert len(table) == 3
    assert any(line.startswith(f"parameters: {count:,}") for line in table)
    assert "steps: 25, a batch of 16 each" in table
    assert len({line for line in lines if " s a step, " in line and "of memory" in line}) == 1
    assert "Trainable params" not in err  # Lightning's own


def test_it_is_left_out_on_demand(zoo_cli, tiny):
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "run", "--trainer.max_steps", 2)
    assert code == 0, err
    assert "parameters: " not in err
