import pytest
import torch

from tests.flash.networks import small, tokens
from zoo.flash.decoding import choose, continuations

P = torch.tensor([0.4, 0.1, 0.3, 0.2])


def chances(**options):
    """How often each token is chosen, over a grid of u."""
    u = (torch.arange(1000) + 0.5) / 1000
    chosen = choose(P.log().expand(1000, 4), u, **options)
    return torch.bincount(chosen, minlength=4) / 1000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.1, 0.3, 0.2]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [16 / 30, 1 / 30, 9 / 30, 4 / 30]),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 9}, [0.4, 0.1, 0.3, 0.2]),
        ({"top_p": 0.7}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 0, 3 / 7, 0]),
    ],
)
def test_tokens_are_chosen_by_their_probability(options, expected):
    # float32 logarithms: 0.7 may come out on either side of a bound
    torch.testing.assert_close(
        chances(**options), torch.tensor(expected).float(), atol=2e-3, rtol=0
    )


def test_the_last_u_chooses_a_token():
    logits = torch.full((1, 3), 0.1)
    assert choose(logits, torch.tensor([1 - 2**-24])).item() in (0, 1, 2)
    impossible = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert choose(impossible, torch.tensor([1 - 2**-24])).item() == 0


def run(network, prompts, first=0, **options):
    index = torch.arange(first, first + len(prompts))
    defaults = {
        "max_new_tokens": 20, "temperature": 1.0, "top_k": None, "top_p": None, "seed": 3,
        "end": None,
    }  # fmt: skip
    return torch.stack(
        list(continuations(network, prompts, index=index, **{**defaults, **options})), 1
    )


@pytest.mark.parametrize("kind", ["flash", "flash_quad", "transformer"])
@torch.no_grad()
def test_greedy_text_is_that_of_the_parallel_form(kind):
    network, prompts = small(kind), [tokens(1, n, n)[0] for n in (3, 11, 17)]
    got = run(network, prompts, temperature=0)
    for row, prompt in zip(got, prompts, strict=True):
        text = prompt
        for token in row:
            assert network(text[None])[0, -1].argmax() == token
            text = torch.cat([text, token[None]])


@torch.no_grad()
def test_rows_depend_on_their_own_number_only():
    network, prompts = small(), [tokens(1, n, n)[0] for n in (3, 11, 17, 11)]
    whole = run(network, prompts)
    parts = [run(network, prompts[:1]), run(network, prompts[1:], first=1)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(run(network, prompts, seed=4), whole)
    assert not torch.equal(run(network, [prompts[0]] * 2)[0], run(network, [prompts[0]] * 2)[1])


@torch.no_grad()
def test_rows_end():
    network, prompts = small(), [tokens(1, n, n)[0] for n in (3, 11, 17)]
    endless = run(network, prompts)
    end = int(endless[0, 4])
    got = run(network, prompts, end=end)
    for row, free in zip(got, endless, strict=True):
        stop = (free == end).nonzero()
        stop = int(stop[0]) if len(stop) else len(free)
        assert torch.equal(row[:stop], free[: len(row)][:stop])
        assert (row[stop:] == end).all()
