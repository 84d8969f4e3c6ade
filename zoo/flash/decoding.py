"""Writing text: the loop over tokens."""

from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.flash.network import Network
from zoo.layers.choose import TokenSampling, choose
from zoo.layers.counter_rng import uniform


@torch.no_grad()
def continuations(
    network: Network,
    prompts: list[Tensor],
    *,
    max_new_tokens: int,
    sampling: TokenSampling,
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
        sampling: How the tokens are chosen.
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
        u = uniform(sampling.seed, index, i)
        token = choose(logits.double(), u, sampling, ordered=True)
        if end is not None:
            token = token.where(~ended, end)
            ended = ended | (token == end)
        yield token
        if i + 1 == max_new_tokens or (end is not None and bool(ended.all())):
            return
        logits = network.step(token, state)
