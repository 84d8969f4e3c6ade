"""Wood's rejection sampler of the cosine (Commun. Stat. Simul. 23, 1994), stable at any kappa."""

import torch


def wood_cosine(dim, kappa, count, generator):
    """Draws of w = <mu, z>, shape (count,), float64; as many rounds as it takes."""
    n = dim - 1
    b = n / (2 * kappa + (4 * kappa**2 + n**2) ** 0.5)
    x0 = (1 - b) / (1 + b)
    # log(1 - x0^2) = log(4 b / (1 + b)^2), without the cancellation of 1 - x0.
    bound = kappa * x0 + n * torch.log(torch.tensor(4 * b / (1 + b) ** 2, dtype=torch.float64))
    w, have = [], 0
    while have < count:
        # Beta(n/2, n/2) as (1 + t) / 2, t a coordinate of a uniform point on a sphere in R^{n+1}
        normal = torch.randn(count, dtype=torch.float64, generator=generator)
        chi2 = 2 * torch._standard_gamma(
            torch.full((count,), n / 2, dtype=torch.float64), generator=generator
        )
        beta = (1 + normal / (normal**2 + chi2).sqrt()) / 2
        proposal = (1 - (1 + b) * beta) / (1 - (1 - b) * beta)
        level = torch.rand(count, dtype=torch.float64, generator=generator).log()
        accept = kappa * proposal + n * torch.log1p(-x0 * proposal) - bound >= level
        w.append(proposal[accept])
        have += len(w[-1])
    return torch.cat(w)[:count]
