import pytest
import torch

from tests.flash.networks import small, tokens
from zoo import FlashLM
from zoo.flash.decoding import continuations
from zoo.layers.choose import TokenSampling


def run(network, prompts, first=0, **options):
    index = torch.arange(first, first + len(prompts))
    end = options.pop("end", None)
    sampling = TokenSampling(**{"seed": 3, **options})
    written = continuations(
        network, prompts, max_new_tokens=20, sampling=sampling, index=index, end=end
    )
    return torch.stack(list(written), 1)


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


@pytest.mark.parametrize(
    "prompt",
    [[1, 2], [[1, 2]], [torch.tensor([1.0])], [torch.tensor([20])], [torch.tensor([-1])],
     torch.tensor([1, 2]), [torch.tensor([[1]])]],
)  # fmt: skip
def test_prompts_that_are_no_tokens_are_refused(prompt):
    model = FlashLM(vocab_size=20, dim=16, depth=1, head_size=16)
    with pytest.raises(ValueError, match=r"prompt: a text, or int64 tokens \(n,\) below 20"):
        model.generate(prompt, 2)
    short = model.generate([torch.tensor([1, 2], dtype=torch.int32)], 2)
    assert torch.equal(short, model.generate([torch.tensor([1, 2])], 2))
