# %% [markdown]
# # How likely is this image? Densities from a VAE
#
# Post: [变分自编码器(八)：估计样本概率密度](https://kexue.fm/archives/8791). Papers:
# [1312.6114](https://arxiv.org/abs/1312.6114), [1509.00519](https://arxiv.org/abs/1509.00519).
# Card: [zoo/vae](../../zoo/vae/README.md).
#
# Whoever wants to compress data needs $p(x)$ as a number. A family rich enough is a mixture over a
# code, $p(x) = \int p(x|z)\,p(z)\,dz$ with $p(z) = N(0, I)$; the integral is the trouble. The post
# derives the VAE from nothing but the wish to estimate it. (The post writes $p$ for the encoder
# and $q$ for the model; here $q(z|x)$ is the encoder, as in most papers.)

# %%
import math

import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Trainer, seed_everything

import zoo
import zoo.data

seed_everything(0, verbose=False)

# %% [markdown]
# ## Drawing codes from the prior does not work
#
# The plain estimate is $\frac1M\sum_i p(x|z_i)$ with $z_i$ from $p(z)$. Nearly all of its draws
# are wasted: only few codes explain a given $x$. Take a model that can be integrated by hand, $z
# \sim N(0, I_d)$ and $x|z \sim N(z, 0.1^2 I_d)$, so that $x \sim N(0, 1.01\,I_d)$. With a proposal
# $q(z|x)$ the estimate is the mean of the weights
#
# $$w_i = \frac{p(x|z_i)\,p(z_i)}{q(z_i|x)}, \qquad z_i \sim q(z|x).$$
#
# The proposal here is centred at $x$, 1.3 times as wide as the likelihood, and so not quite right.

# %%
normal = torch.distributions.Normal
generator = torch.Generator().manual_seed(0)


def log_mean(log_weights):
    return (log_weights.logsumexp(0) - math.log(len(log_weights))).item()


M = 5_000
print("dimensions   exact   by the prior   by a proposal")
for d in (1, 4, 16, 64):
    x = 1.005 * torch.randn(d, generator=generator, dtype=torch.float64)
    exact = normal(0, math.sqrt(1.01)).log_prob(x).sum().item()
    eps = torch.randn(M, d, generator=generator, dtype=torch.float64)
    by_prior = log_mean(normal(eps, 0.1).log_prob(x).sum(1))
    z = x + 0.13 * eps
    log_weights = (
        normal(z, 0.1).log_prob(x) + normal(0, 1).log_prob(z) - normal(x, 0.13).log_prob(z)
    )
    by_proposal = log_mean(log_weights.sum(1))
    print(f"{d:10}   {exact:6.2f}   {by_prior:12.2f}   {by_proposal:13.2f}")
assert abs(by_proposal - exact) < 2 < abs(by_prior - exact)

# %% [markdown]
# ## From the estimate to the VAE, and to IWAE
#
# Train by the estimate itself. With one draw, minus its logarithm is
# $-\ln\,[p(x|z)\,p(z)/q(z|x)]$, whose mean is the loss of a VAE: no posterior had to be mentioned.
# With $M$ draws, $-\ln\,\frac1M\sum_i w_i$, it is IWAE. By Jensen's inequality the mean of the
# logarithm is below the truth, and the gap closes as $M$ grows.
#
# A VAE of the 8×8 digits with all 17 grey levels; `objective="elbo"` with `analytic_kl=False` is
# the post's loss of one draw, `objective="iwae"` with `samples` that of many.

# %%
quiet = {
    "limit_val_batches": 0,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
data = zoo.data.Digits(batch_size=64, flip=False)
model = zoo.VAE(
    image_size=8,
    channels=1,
    levels=17,
    latent_dim=8,
    likelihood="discretized_logistic",
    scale="predicted",
    objective="elbo",
    analytic_kl=False,
    lr=2e-3,
)
Trainer(max_steps=800, gradient_clip_val=10.0, **quiet).fit(model, data)
model.eval()
images = zoo.data.to_float(data.split("test").first(100), data.levels)

counts = [1, 4, 16, 64, 256, 1024, 4096]
estimates = [model.log_density(images, samples=count, refine=0) for count in counts]
for count, estimate in zip(counts[::2], estimates[::2], strict=True):
    print(f"{count:5} draws: log p(x) = {estimate.log_density.mean():.2f} nats in the mean")
elbo, tight = estimates[0].log_density.mean(), estimates[-1].log_density.mean()
assert elbo < tight

# %% [markdown]
# ## An error bar for each image
#
# A single number says nothing of how far it may be trusted. `log_density` gives each image's
# standard error, its effective number of draws, and the Pareto shape $k$ of the weights' tail:
# above 0.7 neither the value nor its error is reliable.

# %%
estimate = estimates[-1]
error, k = estimate.standard_error, estimate.pareto_k
figure, (left, right) = plt.subplots(
    1, 2, figsize=(7.2, 2.8), num="Left: the bound rises with the draws. Right: Pareto k and error"
)
left.plot(counts, [e.log_density.mean() for e in estimates], marker="o")
left.set(xscale="log", xlabel="draws M", ylabel="mean log p(x), nats")
right.scatter(k, error, s=12, c=["tab:red" if value > 0.7 else "tab:blue" for value in k])
right.axvline(0.7, color="gray", lw=1)
right.set(xlabel="Pareto k", ylabel="standard error, nats", yscale="log")
figure.tight_layout()
print(f"{(k > 0.7).float().mean():.0%} of the images have k > 0.7: read these as lower bounds")

# %% [markdown]
# ## A proposal of each image's own
#
# The encoder is the same map for all images, and its posterior has no correlations: that is what
# makes the weights' tails heavy. `refine` gives every image a few Newton steps towards its own
# $p(z|x)$, and draws from a $t$ law of that mean and covariance, with a tenth of the encoder's
# posterior. It is the default; `refine=0`, as above, is the encoder's.

# %%
refined = model.log_density(images, samples=256)
share = (refined.pareto_k > 0.7).float().mean()
print(f"256 draws: log p(x) = {refined.log_density.mean():.2f}, {share:.0%} with k > 0.7")
assert refined.log_density.mean() > estimates[4].log_density.mean()

# %% [markdown]
# The likeliest and the least likely of them:

# %%
order = estimate.log_density.argsort(descending=True)
shown = [*order[:6].tolist(), *order[-6:].tolist()]
figure, axes = plt.subplots(
    1, 12, figsize=(7.2, 1), num="Six test digits of high density, six of low, with log p(x)"
)
for axis, i in zip(axes, shown, strict=True):
    axis.imshow(images[i, 0], cmap="gray")
    axis.set_title(f"{estimate.log_density[i]:.0f}", fontsize=8)
    axis.axis("off")

# %% [markdown]
# With these densities the zoo compresses images without loss (`zoo compress`), by bits-back
# coding; the code is as long as the bound says. The recipes' numbers are in the
# [results](../results/vae.md).
