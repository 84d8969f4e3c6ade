# %% [markdown]
# # A code that cannot vanish: VAEs on spheres, and batch norm
#
# Posts: [变分自编码器(七)：球面上的VAE](https://kexue.fm/archives/8404) and
# [变分自编码器(五)：VAE + BN = 更好的VAE](https://kexue.fm/archives/7381). Papers: [1804.00891](https://arxiv.org/abs/1804.00891),
# [2004.12585](https://arxiv.org/abs/2004.12585). Card: [zoo/vae](../../zoo/vae/README.md).
#
# A strong decoder, such as one that writes a text word by word, can do without the code. Then the
# KL term goes to zero and the code says nothing. Both posts have the same idea against it: make
# the KL impossible to lose.

# %%

import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Trainer, seed_everything

import zoo
import zoo.data
from zoo.vae import HypersphericalUniform, VonMisesFisher
from zoo.vae.batch_norm import GaussianHead

seed_everything(0, verbose=False)

# %% [markdown]
# ## A normal law for the sphere
#
# Let the code be a unit vector, the prior uniform on the sphere, and the posterior von
# Mises-Fisher's,
#
# $$q(z|x) = C_{d,\kappa}\, e^{\kappa \langle \mu(x), z\rangle},$$
#
# with the encoder's direction $\mu(x)$ and a concentration $\kappa$: 0 is uniform, large is
# narrow.

# %%
figure = plt.figure(figsize=(7.2, 2.4), num="Draws on the sphere for concentrations 1, 10 and 100")
mu = torch.tensor([0.0, 0.6, 0.8])
for i, kappa in enumerate((1.0, 10.0, 100.0)):
    z = VonMisesFisher(mu, torch.tensor(kappa)).sample((400,))
    axis = figure.add_subplot(1, 3, i + 1, projection="3d")
    axis.scatter(*z.T, s=2)
    axis.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1), title=f"κ = {kappa:g}")
    axis.set_box_aspect((1, 1, 1))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_zticks([])

# %% [markdown]
# ## Sampling by inverting one function
#
# A draw is $z = w\mu + \sqrt{1-w^2}\,v$, with $v$ uniform among the directions across $\mu$. Only
# the cosine $w$ is special, and it has a law of one dimension: density in proportion to $e^{\kappa
# w}(1-w^2)^{(d-3)/2}$. Papers draw it by rejection; the post asks why, since a law of one
# dimension can be inverted numerically. The post builds a table of ten million points for each
# $\kappa$. This zoo's `quantile.py` does the inversion for every $\kappa$ at once and with
# gradients, so that $\kappa$ may be learned.

# %%
d, kappa = 4, 20.0
law = VonMisesFisher(torch.eye(d)[0], torch.tensor(kappa))
w = law.sample((20_000,))[:, 0]
grid = torch.linspace(-0.2, 0.9999, 500, dtype=torch.float64)
density = (kappa * (grid - 1)).exp() * (1 - grid**2) ** ((d - 3) / 2)
density = density / torch.trapezoid(density, grid)
figure, axis = plt.subplots(figsize=(5, 2.5), num="Histogram of drawn cosines beside their density")
axis.hist(w.numpy(), bins=80, density=True, alpha=0.5, label="draws")
axis.plot(grid, density, label="density")
axis.set(xlim=(0.4, 1), xlabel="cosine w")
axis.legend()
assert abs(w.double().mean() - law.mean_resultant_length.double()) < 0.004

# %% [markdown]
# ## The KL is a constant
#
# Where $\kappa$ is a hyper-parameter, the KL depends on $d$ and $\kappa$ alone. It drops out of
# the loss, and it cannot vanish. The post's demo has $d = 4$ and $\kappa = 20$:

# %%
directions = torch.nn.functional.normalize(torch.randn(3, d, dtype=torch.float64), dim=-1)
posterior = VonMisesFisher(directions, torch.tensor(20.0, dtype=torch.float64))
prior = HypersphericalUniform(d)
kl = torch.distributions.kl_divergence(posterior, prior)
print("KL of three posteriors:", [f"{value:.10f}" for value in kl.tolist()])
assert (kl - 3.258385442132396).abs().max() < 1e-12

# %% [markdown]
# ## Digits on a globe
#
# A VAE whose code lies on the sphere in three dimensions, with $\kappa$ fixed at 30. Below, the
# test digits by longitude and latitude, coloured by class.

# %%
data = zoo.data.Digits(batch_size=64, val_batch_size=360, flip=False)
model = zoo.VMFVAE(
    image_size=8,
    channels=1,
    levels=17,
    spheres=[3],
    concentration="fixed",
    kappa=30.0,
    likelihood="discretized_logistic",
    scale="predicted",
    lr=2e-3,
)
trainer = Trainer(
    max_steps=700,
    gradient_clip_val=10.0,
    limit_val_batches=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)
model.eval()
grey, labels, _ = next(iter(data.test_dataloader()))
with torch.no_grad():
    mu = model.encode(zoo.data.to_float(grey, data.levels))
figure, axis = plt.subplots(figsize=(6.5, 3), num="Test digits on the globe of the code, by class")
longitude, latitude = torch.atan2(mu[:, 1], mu[:, 0]), torch.asin(mu[:, 2].clamp(-1, 1))
for digit in range(10):
    mine = labels == digit
    axis.scatter(longitude[mine].rad2deg(), latitude[mine].rad2deg(), s=9, label=str(digit))
axis.set(xlabel="longitude", ylabel="latitude")
axis.legend(ncol=2, bbox_to_anchor=(1, 1))

# %% [markdown]
# ## The other way: batch norm on the means
#
# A Gaussian posterior has $\mathrm{KL} = \frac12\sum_j(\mu_j^2 + \sigma_j^2 - \ln\sigma_j^2 - 1)$,
# and $\sigma^2 - \ln\sigma^2 - 1 \ge 0$. So the mean over a batch is at least $\frac12\sum_j
# \mathbb{E}[\mu_j^2]$, and batch normalisation of the means with a fixed scale $\gamma$ makes that
# at least $d\gamma^2/2$, whatever the encoder does. Here is an encoder that has all but collapsed:

# %%
features = torch.randn(256, 32)
for mode in ("none", "paper", "su"):
    head = GaussianHead(32, 16, batch_norm=mode, gamma=0.6, tau=0.5, eps=1e-14)
    with torch.no_grad():
        head.mean.weight.mul_(1e-4)
        if head.mean.bias is not None:
            head.mean.bias.zero_()
        if mode != "su":
            head.scale.weight.mul_(1e-4)
            head.scale.bias.zero_()
        kl = head(features).kl().mean().item()
    print(f"batch_norm={mode:6} KL {kl:7.4f} nats, at least {head.kl_bound():.2f}")
    assert kl > head.kl_bound() - 1e-4

# %% [markdown]
# `paper` is the ACL paper's form. `su` is the post's: normalise means and deviations, with scales
# whose squares add up to one, so that the codes of all data together have variance 1, as the prior
# asks: $\gamma_\mu = \sqrt{\tau + (1-\tau)\,s(\theta)}$, $\gamma_\sigma =
# \sqrt{(1-\tau)\,s(-\theta)}$ with the sigmoid $s$.
#
# What both do to a text VAE whose code vanishes without them is in the
# [results](../results/text-vae.md); `zoo fit -c vae/text-shakespeare` trains one.
