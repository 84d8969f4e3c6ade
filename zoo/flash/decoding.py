"""Writing text: the choice of the next token, and the loop over tokens."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.flash.network import Network
from zoo.layers.counter_rng import uniform


def check_choice(
    temperature: float, top_k: int | None, top_p: float | None, max_new_tokens: int
) -> None:
    """Raises ValueError if no token could be chosen."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature}: 0 takes the likeliest token, 1 samples")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: keep at least one token")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: a probability above 0")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: write at least one token")


def choose(
    logits: Tensor,
    u: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """A token of each row.

    Args:
        logits: Shape (B, V).
        u: Uniform in [0, 1), shape (B,): its place in the distribution function is the token.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Choose among so many of the likeliest.
        top_p: Choose among the fewest likeliest that have this probability together (arXiv
            1904.09751); the likeliest is always one of them.

    Returns:
        int64, shape (B,).
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits, order = torch.sort(logits.double() / temperature, stable=True, descending=True)
    if top_k is not None:
        logits, order = logits[:, :top_k], order[:, :top_k]
    p = logits.softmax(-1)
    if top_p is not None:
        before = p.cumsum(-1) - p
        p[:, 1:] = p[:, 1:].where(before[:, 1:] < top_p, 0.0)
    reached = p.cumsum(-1)
    place = torch.searchsorted(reached, u.double()[:, None] * reached[:, -1:], right=True)
    # Rounding may leave the last one's end below u.
    last = (p > 0).sum(-1, keepdim=True) - 1
    chosen: Tensor = order.gather(1, torch.minimum(place, last))[:, 0]
    return chosen


@torch.no_grad()
def continuations(
    network: Network,
    prompts: list[Tensor],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    index: Tensor,
    end: int | None,
) -> Iterator[Tensor]:
    """New tokens, one a row at a time, (B,); rows that have ended go on with ends.

    The state has a constant size if the network is flash: one chunk and one matrix a layer. Which
    tokens a row gets depends on its prompt, the seed and its number, not on the other rows.

    Args:
        network: In eval mode.
        prompts: Tokens of each row, int64, at least one each.
        max_new_tokens: When to stop.
        temperature: As for `choose`.
        top_k: As for `choose`.
        top_p: As for `choose`.
        seed: Of the choices.
        index: Number of each row, int64, shape (B,).
        end: Token that ends a row, if any.
    """
    device = index.device
    lengths = [len(p) for p in prompts]
    tokens = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(device)
    features, state = network.prefill(tokens, network.init_state(len(prompts)), lengths)
    rows = torch.arange(len(prompts), device=device)
    logits = network.logits(features[rows, torch.tensor(lengths, device=device) - 1])
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for i in range(max_new_tokens):
        u = uniform(seed, index, i)
        token = choose(logits, u, temperature=temperature, top_k=top_k, top_p=top_p)
        if end is not None:
            token = token.where(~ended, end)
            ended = ended | (token == end)
        yield token
        if i + 1 == max_new_tokens or (end is not None and bool(ended.all())):
            return
        logits = network.step(token, state)
