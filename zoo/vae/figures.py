"""What a VAE of images shows: its manifold, traversals, KL by dimension and densities."""

import torch
from torch import Tensor

from zoo.data.images.pixels import pixels_of
from zoo.data.protocols import Moment
from zoo.figures import Figure
from zoo.layers.counter_rng import normal
from zoo.vae.density.pareto import UNRELIABLE
from zoo.vae.evaluation import Evaluation
from zoo.vae.generation import Generation
from zoo.vae.image_vae import EVALUATION_SEED

_SIDE, _STEPS, _ROWS = 12, 11, 10


class Figures(Evaluation, Generation):
    """Pictures for the page of a run."""

    def figures(self, moment: Moment) -> dict[str, Figure]:
        """KL and manifold of a validation, traversals at the end, densities of a test."""
        figures: dict[str, Figure] = {}
        sphere = self.head.space == "sphere"
        kl = None
        if moment != "end" and moment in self.report.found:
            kl = self.report.found[moment].kl_per_dimension
            figures["kl"] = Figure(
                "bars",
                "KL by sphere" if sphere else "KL by dimension",
                {"values": kl.cpu().numpy()},
                "near 0: the code says nothing there",
                {"x": "sphere" if sphere else "dimension", "y": "nats"},
            )
            if moment == "val":
                del self.report.found["val"]  # another step's at the end of a run
        if moment == "val" and (drawn := self._manifold(kl)) is not None:
            images, where = drawn
            figures["manifold"] = Figure(
                "images", "Manifold", {"images": pixels_of(images)}, f"images over {where}"
            )
        if moment == "end":
            figures["traversals"] = self._traversals(sphere)
        if moment == "test" and self.report.estimates:
            columns = [torch.cat(column) for column in zip(*self.report.estimates, strict=True)]
            names = ("values", "errors", "shape")
            figures["density"] = Figure(
                "estimates",
                "log p(x) of the test items, and its standard error",
                {n: c.float().cpu().numpy() for n, c in zip(names, columns, strict=True)},
                f"{self.log_density_samples} importance samples an item; where the Pareto k of "
                f"the weights is over {UNRELIABLE}, neither value nor error can be relied on",
                {"x": "log p(x), nats", "y": "standard error", "limit": UNRELIABLE},
            )
        return figures

    def _manifold(self, kl: Tensor | None) -> tuple[Tensor, str] | None:
        """Images over the latent space, or a part of it, and which; none where none is drawn.

        Args:
            kl: Of each dimension, without which nothing says which two of many to draw.
        """
        blocks, sphere = list(self.head.blocks), self.head.space == "sphere"
        if blocks == [3 if sphere else 2]:
            what = "the sphere, on an equal-area map" if sphere else "the plane at its quantiles"
            return self.manifold(_SIDE, _SIDE), f"the whole latent space: {what}"
        if sphere and blocks[0] >= 3:
            others = "; on the other spheres the code stays" * (len(blocks) > 1)
            where = f"the sphere of the code's first three axes, on an equal-area map{others}"
            return self.globe(_SIDE, _SIDE), where
        if not sphere and kl is not None and self.latent_dim > 2:
            i, j = kl.topk(2).indices.sort().values.tolist()
            where = "the two coordinates of the highest KL at their quantiles; the others are 0"
            return self.plane(i, j, _SIDE, _SIDE), where
        return None

    def _traversals(self, sphere: bool) -> Figure:
        first = torch.zeros(1, dtype=torch.long, device=self.device)
        code = self.prior_sample(normal(EVALUATION_SEED, first, 0, (self.latent_dim,)))[0]
        paths = self.traverse(code, _STEPS)
        rows = paths.var(1).flatten(1).mean(1).argsort(descending=True)[:_ROWS]
        ends = (-90, 90) if sphere else (-3, 3)
        places = torch.linspace(*ends, _STEPS).tolist()
        return Figure(
            "images",
            "Traversals",
            {"images": pixels_of(paths[rows])},
            f"one code, of which one coordinate moves{': along a great circle' * sphere}; the "
            f"{len(rows)} that change most",
            {
                "rows": [f"z{row + 1}" for row in rows.tolist()],
                "columns": [f"{place:z.0f}°" if sphere else f"{place:z.1f}" for place in places],
            },
        )
