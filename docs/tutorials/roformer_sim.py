# %% [markdown]
# # One encoder that retrieves and writes: SimBERT and RoFormer-Sim
#
# Posts: [鱼与熊掌兼得：融合检索和生成的SimBERT模型](https://kexue.fm/archives/7427) and
# [SimBERTv2来了！融合检索和生成的RoFormer-Sim模型](https://kexue.fm/archives/8454). Papers:
# [1905.03197](https://arxiv.org/abs/1905.03197) (UniLM),
# [2104.09864](https://arxiv.org/abs/2104.09864) (RoFormer). Card:
# [zoo/simbert](../../zoo/simbert/README.md).
#
# One network that finds similar sentences, as an encoder does, and writes them, as a decoder does.
# What makes it possible is a mask.

# %%
from random import Random

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything

import zoo
import zoo.data
from zoo.data.sentences.noise import noised, words_of
from zoo.simbert.encoder import unilm_mask
from zoo.simbert.losses import contrastive, cosine_matching

seed_everything(0, verbose=False)

# %% [markdown]
# ## The mask of UniLM
#
# A row is `[CLS] a [SEP] b [SEP]`. The source `a` sees itself in both directions and nothing of
# the target; the target sees the source and its own past. So the same pass is an encoder of `a`
# and a decoder of `b`.

# %%
segments = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1]])
mask = unilm_mask(segments, torch.tensor([9]))[0, 0]
tokens = ["[CLS]", "a1", "a2", "a3", "[SEP]", "b1", "b2", "b3", "[SEP]"]
figure, axis = plt.subplots(figsize=(3, 3), num="Who sees whom: a row for each token that looks")
axis.imshow(mask, cmap="Blues")
axis.set_xticks(range(9), tokens, rotation=90)
axis.set_yticks(range(9), tokens)
assert not mask[:5, 5:].any()

# %% [markdown]
# ## Two losses from one pass
#
# From the target's places comes the generation loss, $-\ln p(b|a)$. From `[CLS]`, or from the mean
# over `a`, comes the vector of the source. Each pair gives two rows, `a→b` and `b→a`, and the
# vector of a row must be nearest to that of its partner among the whole batch:
#
# $$L = -\frac{1}{2N} \sum_i \ln\,
# \frac{e^{s \cos(v_i, v_{i'})}}{\sum_{j \ne i} e^{s \cos(v_i, v_j)}},$$
#
# with $s = 30$ in SimBERT and 20 in RoFormer-Sim's code.

# %%
vectors = torch.randn(8, 16)
s = 20 * F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T
s.fill_diagonal_(-torch.inf)
partner = torch.arange(8) ^ 1
by_hand = F.cross_entropy(s, partner)
assert torch.allclose(by_hand, contrastive(vectors, vectors, scale=20.0))
print(f"contrastive loss of 4 random pairs: {by_hand:.3f}")

# %% [markdown]
# ## Training, for a moment
#
# The embedded pairs are PAWS-X's Chinese development set: long sentences that differ in the order
# of their words. A short run of the recipe `simbert/demo`, on RoFormer's rotary positions:

# %%
data = zoo.data.SimilarGroups(batch_size=16, val_batch_size=64, max_length=32)
model = zoo.RoFormerSim(
    vocab_size=3000,
    hidden=64,
    layers=2,
    heads=2,
    pooler="mean",
    dropout=0.0,
    attention_dropout=0.0,
    lr=4e-3,
    lr_schedule={10: 1.0, 120: 0.0},
)
trainer = Trainer(
    max_steps=120,
    gradient_clip_val=1.0,
    limit_val_batches=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)
model.eval()

# %% [markdown]
# The vector of a source is the same whether a target stands behind it or not; that is the mask's
# work, and the reason why a single pass is enough:

# %%
batch = next(iter(data.train_dataloader()))
with torch.no_grad():
    hidden = model.net(batch.tokens, batch.segments, unilm_mask(batch.segments, batch.lengths))
    with_target = model.net.pool(hidden, batch.lengths - batch.segments.sum(1))
alone = model.encode(batch.texts, max_length=32)
difference = (F.normalize(with_target, dim=1) - alone).abs().max().item()
assert difference < 1e-5
print(f"vectors with and without a target are equal to 1e-5: {difference < 1e-5}")

# %% [markdown]
# It finds and it writes:

# %%
corpus = [group[0] for group in data.groups("test")]
query = data.groups("test")[0][1]
print("query   ", query)
for text, cosine in model.similar([query], corpus, k=3)[0]:
    print(f"{cosine:.3f}   ", text)
for written in model.paraphrase(query, n=5, k=2, max_new=32, seed=0, unfinished="mark"):
    print("written ", written.text)

# %% [markdown]
# What it writes after so little training on seven hundred pairs is no Chinese. The posts had
# tens of millions of groups, which were never released.
#
# ## What RoFormer-Sim adds
#
# **Noise.** Half of the sources are corrupted as in BART, by whole words, and the target stays
# clean and is another sentence, which is harder than BART's own task:

# %%
rng = Random(3)
text = corpus[0]
corrupted, _ = noised(words_of(text, model.tokenizer, None, rng), model.tokenizer, rng)
print("clean   ", text)
print("noised  ", model.tokenizer.decode(corrupted))

# %% [markdown]
# **Distillation.** More kinds of sentences made generation better and retrieval worse: a question
# and a statement are easy to tell apart, so a mixed batch teaches less. The second stage therefore
# takes SimBERT's cosines as the target, in the place of the contrastive loss:
#
# $$L_{sim} = \frac{\lambda}{n^2} \sum_{i,j} \big(\cos(u_i, u_j) - \cos(v_i, v_j)\big)^2, \qquad
# \lambda = 100.$$

# %%
student, teacher = torch.randn(8, 16), torch.randn(8, 24)
u, v = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
by_hand = (u @ u.T - v @ v.T).square().mean()
assert torch.allclose(by_hand, cosine_matching(student, student, teacher, teacher))
print(f"100 L_sim of random vectors: {100 * by_hand:.2f}")

# %% [markdown]
# The recipes of all stages, and what each of them brought on real evaluation sets, are in the
# [results](../results/simbert.md).
