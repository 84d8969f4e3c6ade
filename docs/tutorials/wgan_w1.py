# %% [markdown]
# # WGAN works, but not by the Wasserstein distance
#
# Post: [WGAN的成功，可能跟Wasserstein距离没啥关系](https://kexue.fm/archives/8244), about
# [2103.01678](https://arxiv.org/abs/2103.01678) and
# [1910.03875](https://arxiv.org/abs/1910.03875). Card: [zoo/wgan](../../zoo/wgan/README.md).
#
# The story of WGAN is that the critic estimates a distance and the generator walks down it. The
# post tells of two papers that estimate the distance better, and get worse samples. Its
# conclusion: what helps is the Lipschitz constraint, not the distance.

# %%
import matplotlib.pyplot as plt
import torch
from lightning.pytorch import seed_everything
from sklearn.cluster import KMeans

import zoo.data
from zoo.wgan.constraints.by_name import make_constraint
from zoo.wgan.networks.mlp import MLPCritic
from zoo.wgan.objectives import Wasserstein
from zoo.wgan.transport import c_transform, dual_value, exact_w1, pairwise_cost

seed_everything(0, verbose=False)

# %% [markdown]
# ## On batches, a blur is nearer than the truth
#
# A GAN sees batches, and the distance between two batches of real images is far from zero. Take a
# batch of digits and compare it with another real batch, and with 64 k-means centres, which are
# blurred means of images:

# %%
data = zoo.data.Digits()
train = zoo.data.to_float(data.split("train").first(), data.levels)
held_out = zoo.data.to_float(data.split("test").first(), data.levels)
centres = KMeans(64, n_init=1, random_state=0).fit(train.flatten(1).numpy()).cluster_centers_
centres = torch.from_numpy(centres).float().reshape(64, 1, 8, 8)

generator = torch.Generator().manual_seed(0)
to_real, to_centres = [], []
for _ in range(10):
    batch = held_out[torch.randperm(len(held_out), generator=generator)[:64]]
    other = train[torch.randperm(len(train), generator=generator)[:64]]
    to_real.append(exact_w1(other, batch))
    to_centres.append(exact_w1(centres, batch))
real, blurred = torch.stack(to_real), torch.stack(to_centres)
print(f"W1 of a batch to another real batch: {real.mean():.2f} (deviation {real.std():.2f})")
print(f"W1 of a batch to 64 k-means centres: {blurred.mean():.2f} (deviation {blurred.std():.2f})")
assert (blurred < real).all()

figure, axes = plt.subplots(
    2, 12, figsize=(7.2, 1.4), num="Real digits above, k-means centres below"
)
for row, images in zip(axes, (train, centres), strict=True):
    for axis, image in zip(row, images, strict=False):
        axis.imshow(image[0], cmap="gray")
        axis.axis("off")

# %% [markdown]
# So a generator that really minimised the distance of batches would draw blurred digits. The
# reason lies in the number of dimensions: two points of $N(0, I_d)$ are $\sqrt{2d}$ apart, a point
# and the mean only $\sqrt d$.

# %%
for d in (4, 64, 1024):
    a, b = torch.randn(2, 64, d, generator=generator)
    mean = torch.zeros(64, d)
    print(
        f"d = {d:4}: real batch {exact_w1(a, b):6.2f} (√2d = {(2 * d) ** 0.5:5.2f}), "
        f"the mean {exact_w1(mean, b):6.2f} (√d = {d**0.5:5.2f})"
    )

# %% [markdown]
# ## A better estimate: the c-transform
#
# The distance has the dual form $\sup\,\mathbb{E}\,\varphi(x) + \mathbb{E}\,\psi(y)$ with
# $\varphi(x) + \psi(y) \le \lVert x - y \rVert$. Instead of a Lipschitz constraint, take any
# $\varphi$ and the best $\psi$ that goes with it on the batch,
#
# $$\varphi^c(y) = \min_i\,\big[\lVert x_i - y \rVert - \varphi(x_i)\big].$$
#
# Whatever $\varphi$ is, the value is at most the distance of the two batches, and for the best
# $\varphi$ equal to it:

# %%
x, y = torch.randn(2, 64, 20, generator=generator, dtype=torch.float64)
cost = pairwise_cost(x, y)
phi = torch.zeros(64, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([phi], lr=0.01)
for _ in range(1500):
    loss = -(phi.mean() + c_transform(cost, phi).mean())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
value, exact = -loss.item(), exact_w1(x, y).item()
print(f"dual {value:.3f}, exact {exact:.3f}")
assert 0.97 * exact < value < exact + 1e-9

# %% [markdown]
# ## ... of the wrong distance
#
# Now a critic is trained between two distributions that stand still, $N(0, I)$ and itself moved by
# one. Their distance is exactly 1. In 20 dimensions, that of two batches of 64 is far larger.
# Which of the two does a critic find?


# %%
def trained(objective, d, steps=250):
    torch.manual_seed(0)
    critic = MLPCritic(d, [128, 128])
    constraint = make_constraint("gp" if objective == "gp" else "none")
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9))
    for _ in range(steps):
        x, y = torch.randn(2, 64, d)
        y[:, 0] += 1
        if objective == "gp":
            seen = constraint.evaluate(critic, x, y, None, constraint.noise(x))
            loss = Wasserstein().critic_loss(seen.real, seen.fake) + seen.penalty
        else:
            loss = -dual_value(critic(x), pairwise_cost(x, y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    values, exact = [], []
    with torch.no_grad():
        for _ in range(20):
            x, y = torch.randn(2, 64, d)
            y[:, 0] += 1
            by_gp = critic(x).mean() - critic(y).mean()
            by_dual = dual_value(critic(x), pairwise_cost(x, y))
            values.append(by_gp if objective == "gp" else by_dual)
            exact.append(exact_w1(x, y))
    return torch.stack(values).mean().item(), torch.stack(exact).mean().item()


print("dimensions   gradient penalty   c-transform   exact, of batches   exact, of distributions")
for d in (2, 20):
    by_gp, batches = trained("gp", d)
    by_c, _ = trained("c", d)
    print(f"{d:10}   {by_gp:16.2f}   {by_c:11.2f}   {batches:17.2f}   {1:23.2f}")
assert abs(by_c - batches) < abs(by_gp - batches)
assert abs(by_gp - 1) < abs(by_c - 1)

# %% [markdown]
# The c-transform follows the batches; the penalised critic, which cannot follow a batch, is near
# the distance of the distributions. A generator that is led by the c-transform is led towards
# k-means centres.
#
# `zoo study wasserstein` measures all of it, the training of generators too, on the data that you
# choose; what holds of the post and what does not is in the [study](../studies/wasserstein.md).
