import math

import lightning.pytorch as L
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.utils.data import DataLoader

from zoo.vae.diagnostics import LatentStatistics, active_units, knn_votes, mutual_information
from zoo.vae.posteriors import GaussianPosterior


def test_mutual_information_is_a_double_loop():
    mean, log_std = torch.randn(5, 2), 0.3 * torch.randn(5, 2)
    posterior = GaussianPosterior(mean, log_std)
    z = posterior.draw(torch.randn(1, 5, 2))[0][0]
    for i, value in enumerate(mutual_information(posterior, z).tolist()):
        terms = [
            sum(
                -0.5 * ((z[i, k] - mean[j, k]) / log_std[j, k].exp()).item() ** 2
                - log_std[j, k].item()
                for k in range(2)
            )
            for j in range(5)
        ]
        mixture = math.log(sum(math.exp(t) for t in terms) / 5)
        assert value == pytest.approx(terms[i] - mixture, rel=1e-4, abs=1e-5)


def test_mutual_information_at_its_two_ends():
    same = GaussianPosterior(torch.zeros(8, 2), torch.zeros(8, 2))
    assert mutual_information(same, torch.randn(8, 2)).abs().max() < 1e-6
    apart = GaussianPosterior(100 * torch.arange(8.0)[:, None], torch.zeros(8, 1))
    information = mutual_information(apart, apart.mean)
    torch.testing.assert_close(information, torch.full((8,), math.log(8)).double())


def test_active_units_by_axis_and_by_direction():
    spread = torch.diag(torch.tensor([0.5, 0.011, 0.009, 0.0]))
    assert active_units(spread, "euclidean") == 2
    angle = torch.tensor(math.pi / 4)
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    spread = torch.diag(torch.tensor([0.015, 0.0, 0.0, 0.0]))
    assert active_units(turn @ spread @ turn.T, "euclidean") == 0  # 0.0075 on each axis
    assert active_units(turn @ spread @ turn.T, "sphere") == 1


@pytest.mark.parametrize(("space", "metric"), [("euclidean", "euclidean"), ("sphere", "cosine")])
def test_knn_is_scikit_learns(space, metric):
    g = torch.Generator().manual_seed(0)
    codes, queries = torch.randn(90, 3, generator=g), torch.randn(500, 3, generator=g)
    labels = torch.randint(0, 4, (90,), generator=g)
    peer = KNeighborsClassifier(5, metric=metric).fit(codes.numpy(), labels.numpy())
    got = knn_votes(codes, labels, queries, space=space)
    assert got.tolist() == peer.predict(queries.numpy()).tolist()


class Statistics(L.LightningModule):
    """Evaluates given posteriors, a few a batch."""

    def __init__(self, mean, log_std):
        super().__init__()
        self.all = mean, log_std
        self.statistics = LatentStatistics("test", 3, 3, "euclidean")

    def test_step(self, batch, batch_idx):
        self.statistics.add(
            GaussianPosterior(self.all[0][batch], self.all[1][batch]), self.z(batch)
        )

    def z(self, batch):
        return self.all[0][batch] + self.all[1][batch].exp() * 0.5

    def on_test_epoch_end(self):
        self.arrays = self.statistics.log(self)


def test_statistics_are_those_of_the_whole_set():
    mean = torch.randn(23, 3) * torch.tensor([1.0, 0.5, 0.01]) + 4
    log_std = 0.3 * torch.randn(23, 3)
    module = Statistics(mean, log_std)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    (logged,) = trainer.test(module, DataLoader(range(23), batch_size=7), verbose=False)
    assert logged["test/active_units"] == 2
    parts = [
        mutual_information(GaussianPosterior(mean[i], log_std[i]), module.z(i))
        for i in torch.arange(23).split(7)
    ]
    assert logged["test/mutual_information"] == pytest.approx(torch.cat(parts).mean().item())
    assert module.statistics.batch == 7
    kl = GaussianPosterior(mean, log_std).kl_per_dimension().mean(0)
    torch.testing.assert_close(module.arrays.kl_per_dimension.float(), kl)
    variances = mean.double().var(0, correction=0)
    torch.testing.assert_close(module.arrays.variances, variances.sort(descending=True).values)
    assert len(module.arrays.log10_kappa) == 0
