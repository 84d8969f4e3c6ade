# %% [markdown]
# # Demolish and build: DDPM
#
# Post: [生成扩散模型漫谈(一)：DDPM = 拆楼 + 建楼](https://kexue.fm/archives/9119). Paper:
# [2006.11239](https://arxiv.org/abs/2006.11239). Card: [zoo/ddpm](../../zoo/ddpm/README.md).
#
# A building is easy to take apart, brick by brick. Whoever has watched each brick being removed
# can learn to put one back, and who can put one back can build. DDPM takes an image apart by
# adding a little noise a thousand times; a network learns to undo one such step; and a new image
# is built by undoing all of them, from pure noise on.

# %%
import matplotlib.pyplot as plt
import torch
from lightning.pytorch import Trainer, seed_everything

import zoo
import zoo.data
from zoo.ddpm.diffusion import Diffusion
from zoo.ddpm.schedule import Chain, make_betas

seed_everything(0, verbose=False)

# %% [markdown]
# ## Taking apart
#
# The post writes a step as
#
# $$x_t = \alpha_t x_{t-1} + \beta_t \varepsilon_t, \qquad \alpha_t^2 + \beta_t^2 = 1,
# \qquad \varepsilon_t \sim N(0, I),$$
#
# so that all steps at once are one: $x_t = \bar\alpha_t x_0 + \bar\beta_t \varepsilon$ with
# $\bar\alpha_t = \alpha_1 \cdots \alpha_t$ and $\bar\beta_t^2 = 1 - \bar\alpha_t^2$. Ho's paper,
# and this zoo's code, use the squares of these letters: Ho's $\beta_t$ is the post's $\beta_t^2$,
# and Ho's $\bar\alpha_t$ the post's $\bar\alpha_t^2$.
#
# The post chooses $\alpha_t = \sqrt{1 - 0.02\,t/T}$ with $T = 1000$, which makes
# $\ln\,\bar\alpha_T < -0.005\,(T + 1)$: hardly anything of the image is left at the end.

# %%
T = 1000
chain = Chain.from_betas(make_betas("post", T))
log_alpha_bar = 0.5 * chain.alpha_bar[-1].log().item()  # the post's letter is the root
print(f"ln of the post's alpha_bar_T: {log_alpha_bar:.5f}, below {-0.005 * (T + 1):.5f}")
assert log_alpha_bar < -0.005 * (T + 1)

diffusion = Diffusion(chain)
data = zoo.data.Digits(batch_size=64, val_batch_size=100, flip=False)
digit = zoo.data.to_float(data.split("train").first(1), data.levels)
steps = torch.tensor([0, 49, 149, 299, 499, 999])
noise = torch.randn(len(steps), *digit.shape[1:])
noisy = diffusion.q_sample(digit.expand_as(noise), steps, noise)

figure, axes = plt.subplots(
    1, len(steps), figsize=(7, 1.5), num="A digit after more and more noise"
)
for axis, image, step in zip(axes, noisy, steps, strict=True):
    axis.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
    axis.set_title(f"t = {step + 1}")
    axis.axis("off")

# %% [markdown]
# ## Two noises, or one
#
# To undo a step the network has to know the noise of that step. The post's first loss has two
# independent noises in it, that of all earlier steps and that of step $t$:
#
# $$\lVert \varepsilon_t - \epsilon_\theta(\bar\alpha_t x_0 + \alpha_t \bar\beta_{t-1}
# \bar\varepsilon_{t-1} + \beta_t \varepsilon_t,\ t)\rVert^2.$$
#
# Their sum is one noise, $\bar\beta_t \varepsilon$. Write $\varepsilon_t$ as its part along
# $\varepsilon$ and the rest, average over the rest by hand, and what remains is
#
# $$\frac{\beta_t^2}{\bar\beta_t^2} \lVert \varepsilon - \frac{\bar\beta_t}{\beta_t}
# \epsilon_\theta(\bar\alpha_t x_0 + \bar\beta_t \varepsilon,\ t)\rVert^2 +
# d\,\frac{\alpha_t^2 \bar\beta_{t-1}^2}{\bar\beta_t^2}.$$
#
# It has the same mean for any network, and less variance, which is all that the trick is for. Here
# is an arbitrary function in the place of the network, at step 300:

# %%
t, d, draws = 299, 64, 20_000
x0 = digit.double().flatten()
alpha_bar, previous = chain.alpha_bar[t], chain.alpha_bar[t - 1]
alpha, beta = (alpha_bar / previous).sqrt(), (1 - alpha_bar / previous).sqrt()
beta_bar, beta_bar_before = (1 - alpha_bar).sqrt(), (1 - previous).sqrt()


def network(x):
    return 0.05 * torch.tanh(x)


earlier, last = torch.randn(2, draws, d, dtype=torch.float64)
x_t = alpha_bar.sqrt() * x0 + alpha * beta_bar_before * earlier + beta * last
two = (last - network(x_t)).square().sum(1)

one_noise = torch.randn(draws, d, dtype=torch.float64)
x_t = alpha_bar.sqrt() * x0 + beta_bar * one_noise
one = (beta / beta_bar) ** 2 * (one_noise - beta_bar / beta * network(x_t)).square().sum(1)
one = one + d * (alpha * beta_bar_before / beta_bar) ** 2

error = ((two.var() + one.var()) / draws).sqrt()
print(f"two noises: mean {two.mean():.3f}, deviation {two.std():.3f}")
print(f"one noise:  mean {one.mean():.3f}, deviation {one.std():.3f}")
assert (two.mean() - one.mean()).abs() < 4 * error
assert one.std() < two.std()

# %% [markdown]
# ## Training
#
# `zoo.DDPM` learns Ho's $\varepsilon$, which is the post's up to the factor $\bar\beta_t /
# \beta_t$. This is a small one on scikit-learn's 8×8 digits; the recipe `ddpm/digits` trains five
# times as long, with the variance learned and the weights averaged.

# %%
model = zoo.DDPM(
    image_size=8,
    channels=1,
    levels=17,
    num_classes=10,
    timesteps=100,
    beta_start=0.02,
    beta_end=0.18,
    variance="fixed_large",
    width=16,
    multipliers=[1, 2],
    blocks=1,
    attention_levels=[1],
    groups=8,
    channels_last=True,
    lr=6e-3,
    lr_schedule={20: 1.0, 250: 0.0},
)
trainer = Trainer(
    max_steps=250,
    gradient_clip_val=1.0,
    limit_val_batches=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)
grey, labels, index = next(iter(data.test_dataloader()))
images = zoo.data.to_float(grey, data.levels)
bits = model.bits_per_dim(images, labels=labels, index=index)
print(f"variational bound: {bits.mean():.2f} bits a pixel of 17 grey levels")

# %% [markdown]
# That is worse than counting each pixel's levels (2.43 bits), after so short a training and with a
# fixed variance. The recipe, whose network says the variance, has 1.98.
#
# ## Building, with and without noise
#
# A step of building is $x_{t-1} = (x_t - \beta_t \epsilon_\theta)/\alpha_t + \sigma_t z$. The post
# offers two: $\sigma_t = \beta_t$, here `variance="fixed_large"`, and no noise at all, which it
# calls greedy, here `variance="zero"`. DDIM, of a later post, is deterministic too, but takes
# another step, and may leave most of them out. The model's default is DPM-Solver++, which is DDIM
# of second order: it takes ten.

# %%
ways = {
    "random, 100 steps": {"sampler": "ancestral"},
    "greedy, 100 steps": {"sampler": "ancestral", "variance": "zero"},
    "DDIM, 20 steps": {"sampler": "ddim", "steps": 20},
    "default, 10 steps": {},
}
figure, axes = plt.subplots(
    len(ways), 10, figsize=(7, 3.3), num="Samples of the ten classes, by four samplers"
)
for row, (name, options) in zip(axes, ways.items(), strict=True):
    samples = model.sample(10, seed=1, labels=list(range(10)), **options)
    for axis, image in zip(row, samples, strict=True):
        axis.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")

# %% [markdown]
# The greedy step goes to the middle of what could have been, again and again, so that its samples
# of a class are hardly different from one another. DDIM, without noise too, keeps them apart, as
# its step is made for it. The deviation of a pixel over 40 samples of the digit 3:

# %%
for name, options in ways.items():
    threes = model.sample(40, seed=2, labels=3, **options)
    print(f"{name:20}{threes.std(0).mean():.3f}")

# %% [markdown]
# The recipe's own samples are on the [home page](../index.md), its numbers in the
# [results](../results/ddpm.md).
