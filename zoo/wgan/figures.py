"""What a WGAN of the plane shows: real and generated points over the critic's values."""

import torch

from zoo.data.protocols import HasReferencePoints, Moment, datamodule_of
from zoo.figures import Figure
from zoo.wgan.evaluation import EVALUATION_SEED, Evaluation

_POINTS, _SIDE = 800, 40


class Figures(Evaluation):
    """Pictures for the page of a run."""

    def figures(self, moment: Moment) -> dict[str, Figure]:
        """The plane at each validation; of images, the samples are enough."""
        data = datamodule_of(self.trainer)
        if moment != "val" or self.shape != (2,) or not isinstance(data, HasReferencePoints):
            return {}
        real = data.reference_points("val", _POINTS)
        fake = self.sample(_POINTS, seed=EVALUATION_SEED).cpu()
        reach = 1.25 * float(real.abs().max())
        axis = torch.linspace(-reach, reach, _SIDE)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        grid = torch.stack([x, y], -1).flatten(0, 1).to(self.device)
        values, _, _ = self.critic_values(grid)
        arrays = {
            "real": real,
            "fake": fake,
            "x": axis,
            "y": axis,
            "values": values.view(_SIDE, _SIDE).float().cpu(),
        }
        note = f"{_POINTS} points each, over the values of the critic"
        return {
            "plane": Figure(
                "field",
                "Points and critic",
                {name: array.detach().numpy() for name, array in arrays.items()},
                note,
                {"values": "critic"},
            )
        }
