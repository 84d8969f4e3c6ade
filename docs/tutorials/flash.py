# %% [markdown]
# # One head, a gate, and linear time: FLASH
#
# Post: [FLASH：可能是近来最有意思的高效Transformer设计](https://kexue.fm/archives/8934). Paper:
# [2202.10447](https://arxiv.org/abs/2202.10447). Card: [zoo/flash](../../zoo/flash/README.md).
#
# A Transformer's block has two layers, attention and a feed-forward network. FLASH makes one layer
# of them: a gated linear unit whose inner part has been mixed over the tokens first. With the gate
# a single head is enough, and with a single head attention within chunks and a linear state
# between them is cheap.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything

import zoo
import zoo.data
from zoo.flash.network import macs_per_token

seed_everything(0, verbose=False)

# %% [markdown]
# ## The gated attention unit
#
# $$U = \phi(X W_u),\quad V = \phi(X W_v),\quad Z = \phi(X W_z),\qquad O = (U \odot A V)\,W_o,$$
#
# with $\phi$ = SiLU. $A = I$ would be a gated linear unit, $U = 1$ plain attention. Queries and
# keys are the same small $Z$ (of $s = 128$ features, or fewer), each with a scale and an offset of
# its own: $Q = \gamma_q \odot Z + \beta_q$. The weights are no softmax:
#
# $$A = \frac{1}{n s}\,\mathrm{relu}^2(Q K^\top).$$
#
# Of a causal model the post says that *the first t terms should be divided by t*, and not by the
# length $n$ of a text that is still being written; that is `score="relu2_row"` here. In a few
# lines, without rotary positions, for a single chunk:

# %%
n, dim, e, s = 12, 32, 64, 16
X = torch.randn(n, dim, dtype=torch.float64)
W_u, W_v, W_z = (torch.randn(dim, k, dtype=torch.float64) / dim**0.5 for k in (e, e, s))
W_o = torch.randn(e, dim, dtype=torch.float64) / e**0.5
gamma, beta = torch.randn(2, 2, s, dtype=torch.float64)

U, V, Z = F.silu(X @ W_u), F.silu(X @ W_v), F.silu(X @ W_z)
Q, K = gamma[:, None] * Z + beta[:, None]
seen = torch.arange(1, n + 1, dtype=torch.float64)[:, None]  # keys that each token sees
A = F.relu(Q @ K.T / s**0.5).square().tril() / seen
output = (U * (A @ V)) @ W_o
print("A is", tuple(A.shape), "for all features: one head; O is", tuple(output.shape))

# %% [markdown]
# The same function of the zoo, told the same weights:

# %%
from zoo.flash.scores import Score, attend

mask = torch.ones(n, n, dtype=torch.bool).tril()
AV = attend(Q[None], K[None], V[None], score=Score("relu2_row"), mask=mask)
difference = (AV[0] - A @ V).abs().max().item()
assert difference < 1e-12
print(f"largest difference below 1e-12: {difference < 1e-12}")

# %% [markdown]
# ## Mixed chunk attention
#
# Within a chunk of $c$ tokens, attention as above. Between chunks, linear attention: the state
# $\sum_h K_h^\top V_h$ of all chunks before, an $s \times e$ matrix, divided by the number of
# tokens in it, $(g-1)\,c$. (The post prints $(g-1)\,n/c$, which is a slip.) Nothing grows with the
# text, so a token costs the same at any length. A FLASH model of 12 units and a Transformer with
# about as many weights, multiplications a token:

# %%
options = {"vocab_size": 256, "dim": 256, "depth": 12, "head_size": 64, "chunk": 128}
flash = zoo.FlashLM(**options)
quad = zoo.FlashLM(kind="flash_quad", **options)
transformer = zoo.FlashLM(kind="transformer", **(options | {"chunk": 256}))
lengths = [2**k for k in range(8, 17)]
figure, axis = plt.subplots(
    figsize=(5.5, 3), num="Multiplications a token of FLASH, FLASH-Quad and a Transformer by length"
)
for name, lm in {"FLASH": flash, "FLASH-Quad": quad, "Transformer": transformer}.items():
    axis.plot(lengths, [macs_per_token(lm.net, m) / 1e6 for m in lengths], marker="o", label=name)
axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel="million multiplications a token")
axis.legend()
for m in (256, 1024, 4096, 65536):
    ratio = macs_per_token(transformer.net, m) / macs_per_token(flash.net, m)
    print(f"{m:6} tokens: a Transformer multiplies {ratio:.2f} times as often")

# %% [markdown]
# Below one or two thousand tokens FLASH does *more* work than a Transformer. What that means in
# seconds is in the [benchmarks](../benchmarks/flash.md).
#
# ## One function in three forms
#
# All tokens at once, one by one with a state, or the first at once and the others one by one: the
# logits are the same, and the state does not grow.

# %%
lm = zoo.FlashLM(vocab_size=50, dim=32, depth=4, head_size=16, chunk=8).double().eval()
tokens = torch.randint(50, (1, 53))
with torch.no_grad():
    at_once = lm(tokens)
    logits, state = lm.prefill(tokens[:, :20])
    sizes = [state.nbytes()]
    worst = (logits - at_once[:, :20]).abs().max()
    for i in range(20, 53):
        worst = torch.maximum(worst, (lm.step(tokens[:, i], state) - at_once[:, i]).abs().max())
        sizes.append(state.nbytes())
assert worst < 1e-10
assert len(set(sizes)) == 1
print(f"equal to 1e-10: {bool(worst < 1e-10)}")
print(f"state of {sizes[0]} bytes after 20 tokens, {sizes[-1]} after 53")

# %% [markdown]
# ## Training, for a moment
#
# 150 steps on the characters of tiny Shakespeare, which is embedded; a tenth of the recipe
# `flash/shakespeare`, on shorter windows.

# %%
data = zoo.data.Text(level="char", sequence_length=128, batch_size=16, val_batch_size=64)
lm = zoo.FlashLM(
    vocab_size=67,
    dim=96,
    depth=4,
    head_size=48,
    chunk=32,
    position_bias=True,
    token_shift=True,
    init_std=0.06,
    lr=8e-3,
    lr_schedule={15: 1.0, 150: 0.0},
)
trainer = Trainer(
    max_steps=150,
    gradient_clip_val=1.0,
    limit_val_batches=0,
    limit_test_batches=8,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(lm, data)
(numbers,) = trainer.test(lm, data, verbose=False)
print(f"{numbers['test/bits_per_char']:.2f} bits a character;", end=" ")
print(f"counting characters needs {numbers['baseline/bits_per_char']:.2f}")
print("ROMEO:" + lm.generate(["ROMEO:"], 120, temperature=0.7, seed=1)[0])

# %% [markdown]
# After so few steps it writes something with the rhythm of the text and few of its words. Numbers
# of whole runs, beside FLASH-pytorch and a Transformer, are in the [results](../results/flash.md).
