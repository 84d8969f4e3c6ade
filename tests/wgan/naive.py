"""A GAN iteration as public code writes it: three critic forwards, double backward everywhere."""

import torch
import torch.nn.functional as F


def penalty(name, critic, real, fake, alpha, labels):
    """The term that a constraint adds to the critic's loss, or None."""

    def norms(x):
        x = x.detach().clone().requires_grad_()
        (g,) = torch.autograd.grad(critic(x, labels).sum(), x, create_graph=True)
        return g.reshape(len(g), -1).norm(2, dim=1)

    if name == "gp":
        return 10 * ((norms(alpha * real + (1 - alpha) * fake) - 1) ** 2).mean()
    if name == "lp":
        return 10 * (F.relu(norms(alpha * real + (1 - alpha) * fake) - 1) ** 2).mean()
    if name == "dragan":
        return 10 * ((norms(real + alpha) - 1) ** 2).mean()
    if name == "div":
        return (norms(real) ** 6).mean() + (norms(fake) ** 6).mean()
    if name == "r1":
        return 5 * (norms(real) ** 2).mean()
    return None


def normalized(name, critic, x, labels):
    """f_hat with a graph through its gradient norm."""
    f = critic(x, labels)
    if name not in ("gn", "gran"):
        return f
    x = x if x.requires_grad else x.clone().requires_grad_()
    f = critic(x, labels)
    (g,) = torch.autograd.grad(f.sum(), x, create_graph=True)
    n = g.reshape(len(g), -1).norm(2, dim=1)
    return f / (n + f.abs()) if name == "gn" else f * n / (n**2 + 0.1)


def losses(objective):
    return {
        "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda f: -f.mean()),
        "hinge": (lambda r, f: F.relu(1 - r).mean() + F.relu(1 + f).mean(), lambda f: -f.mean()),
        "ns": (
            lambda r, f: (
                F.binary_cross_entropy_with_logits(r, torch.ones_like(r))
                + F.binary_cross_entropy_with_logits(f, torch.zeros_like(f))
            ),
            lambda f: F.binary_cross_entropy_with_logits(f, torch.ones_like(f)),
        ),
    }[objective]


def iteration(
    name, objective, generator, critic, optimizers, data, draws, n_critic, clip=None, labels=None
):
    """n_critic critic steps and a generator step, with noise from `draws` in the order of use."""
    d_loss, g_loss = losses(objective)
    optimizer_g, optimizer_d = optimizers
    labels = labels or [None] * (n_critic + 1)
    reals = data.chunk(n_critic)
    # The fakes of an iteration are drawn first: G does not change in between.
    fakes = [generator(next(draws["z"]), y).detach() for y in labels[:n_critic]]
    for real, fake, y in zip(reals, fakes, labels, strict=False):
        alpha = next(draws["alpha"], None)
        loss = d_loss(normalized(name, critic, real, y), normalized(name, critic, fake, y))
        term = penalty(name, critic, real, fake, alpha, y)
        loss = loss if term is None else loss + term
        optimizer_d.zero_grad()
        loss.backward()
        optimizer_d.step()
        if clip:
            for p in critic.parameters():
                p.data.clamp_(-clip, clip)
    optimizer_g.zero_grad()
    loss = g_loss(normalized(name, critic, generator(next(draws["z"]), labels[-1]), labels[-1]))
    loss.backward()
    optimizer_g.step()
    return loss.detach()
