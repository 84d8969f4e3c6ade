"""What the loggers of a run take beside numbers: images, tables, files and results."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from zoo.files import visible


class MLflow(MLFlowLogger):
    """Lightning's logger, whose run goes on with other options; MLflow lets none be said anew."""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Sends the options that the run does not have yet."""
        known = self.experiment.get_run(self.run_id).data.params
        given = _flatten_dict(_convert_params(params))
        super().log_hyperparams({k: v for k, v in given.items() if k not in known})


class Sender:
    """Sends to one logger what it can show, and nothing else; of rank 0.

    This one is for any logger with the methods of Lightning's W&B logger.

    Args:
        logger: The logger.
    """

    run_key = ""
    """Name in a checkpoint of the run's id at the logger, if it has one."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def image(self, name: str, path: Path, step: int) -> None:
        """Sends the image of a file."""
        if hasattr(self.logger, "log_image"):
            self.logger.log_image(key=name, images=[str(path)], step=step)

    def table(self, name: str, columns: Mapping[str, Sequence[Any]], step: int) -> None:
        """Sends columns of one length by their names."""
        if hasattr(self.logger, "log_table"):
            rows = [list(row) for row in zip(*columns.values(), strict=True)]
            self.logger.log_table(key=name, columns=list(columns), data=rows, step=step)

    def checkpoint(self, path: Path) -> None:
        """Sends a checkpoint as an artifact."""

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """Sends the results of a test of the weights after a step."""


class WandbSender(Sender):
    """To Weights & Biases."""

    run_key = "wandb_run_id"

    def checkpoint(self, path: Path) -> None:
        """As an artifact of the run, whose versions are those of last.ckpt or best.ckpt."""
        run = self.logger.experiment
        run.log_artifact(str(path), name=f"{run.id}-{path.stem}", type="model")

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """Into the summary of the run."""
        self.logger.experiment.summary.update({**values, "test/step": step})


class TensorBoardSender(Sender):
    """To TensorBoard, which keeps no files."""

    def image(self, name: str, path: Path, step: int) -> None:
        """As the image of a step."""
        import numpy as np
        from PIL import Image

        array = np.atleast_3d(np.asarray(Image.open(path)))
        self.logger.experiment.add_image(name, array, step, dataformats="HWC")

    def table(self, name: str, columns: Mapping[str, Sequence[Any]], step: int) -> None:
        """As a table of Markdown."""
        head, *rows = tab_separated(columns).replace("|", "\\|").splitlines()
        lines = [head, "\t".join(["---"] * len(columns)), *rows]
        text = "\n".join(f"|{line}|".replace("\t", "|") for line in lines)
        self.logger.experiment.add_text(name, text, step)

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """As scalars of that step."""
        self.logger.log_metrics(values, step)
        self.logger.save()


class MLflowSender(Sender):
    """To MLflow."""

    run_key = "mlflow_run_id"

    def image(self, name: str, path: Path, step: int) -> None:
        """As the image of a step."""
        from PIL import Image

        with Image.open(path) as image:
            self.logger.experiment.log_image(self.logger.run_id, image, key=name, step=step)

    def table(self, name: str, columns: Mapping[str, Sequence[Any]], step: int) -> None:
        """As a file of tab-separated values."""
        file = f"{name}/step-{step:07d}.tsv"
        self.logger.experiment.log_text(self.logger.run_id, tab_separated(columns), file)

    def checkpoint(self, path: Path) -> None:
        """As an artifact of the run."""
        self.logger.experiment.log_artifact(self.logger.run_id, str(path), "checkpoints")

    def summary(self, values: Mapping[str, float], step: int) -> None:
        """As metrics of that step."""
        self.logger.log_metrics(values, step)


_SENDERS = {
    WandbLogger: WandbSender,
    TensorBoardLogger: TensorBoardSender,
    MLFlowLogger: MLflowSender,
}


def tab_separated(columns: Mapping[str, Sequence[Any]]) -> str:
    """Columns as lines, in whose cells any white space is one blank, and no control character."""
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    cells = ((visible(" ".join(str(cell).split())) for cell in row) for row in rows)
    return "".join("\t".join(row) + "\n" for row in cells)


def senders(loggers: Iterable[Any]) -> list[Sender]:
    """What sends to each of these loggers."""
    return [
        next((kind for cls, kind in _SENDERS.items() if isinstance(one, cls)), Sender)(one)
        for one in loggers
    ]
