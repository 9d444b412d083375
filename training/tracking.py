"""Where the figures of a run go: TensorBoard always, Weights & Biases and MLflow when configured.

A tracker sees numbers by name at a step; it runs in the command, never in a worker.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from rove.config import TrackingSection
from rove.errors import ConfigError, shown

_INSTALL = "pip install 'rove[tracking]'"


class Tracker(Protocol):
    """Takes the figures of one run."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take numbers by name."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files for `tensorboard --logdir`; a resumed run replaces what it does again."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], start_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=start_step or None)
        table = "\n".join(["| key | value |", "| --- | --- |"])
        rows = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
        self._writer.add_text("settings", f"{table}\n{rows}", start_step)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take numbers by name."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a project of Weights & Biases."""

    def __init__(
        self, wandb: Any, folder: Path, name: str, settings: Mapping[str, Any], to: TrackingSection
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=to.wandb_project,
            name=name,
            mode=to.wandb_mode,
            dir=str(folder),
            config=dict(settings),
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take numbers by name."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


class MLflow:
    """A run of an MLflow experiment named after the system."""

    def __init__(self, mlflow: Any, name: str, settings: Mapping[str, Any], uri: str) -> None:
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run_id = self._client.create_run(number).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run_id, key, str(value)[:500])

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take numbers by name."""
        for name, value in figures.items():
            self._client.log_metric(self._run_id, name.replace(" ", "_"), value, step=step)

    def close(self) -> None:
        """Say that the run is over."""
        self._client.set_terminated(self._run_id)


def check(section: TrackingSection) -> None:
    """Raise `ConfigError` where a tracker is wanted whose package is not installed."""
    if section.wandb_project is not None:
        _package("wandb", "wandb_project")
    if section.mlflow_uri is not None:
        _package("mlflow", "mlflow_uri")


def open_trackers(
    section: TrackingSection,
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    start_step: int = 0,
) -> Sequence[Tracker]:
    """Open all trackers of a run whose files belong into `folder`."""
    trackers: list[Tracker] = [TensorBoard(folder / "tensorboard", settings, start_step)]
    if section.wandb_project is not None:
        wandb = _package("wandb", "wandb_project")
        with _refusing(wandb.Error, "wandb_project", section.wandb_project):
            trackers.append(WeightsAndBiases(wandb, folder, name, settings, section))
    if section.mlflow_uri is not None:
        mlflow = _package("mlflow", "mlflow_uri")
        with _refusing(mlflow.MlflowException, "mlflow_uri", section.mlflow_uri):
            trackers.append(MLflow(mlflow, name, settings, section.mlflow_uri))
    return trackers


@contextmanager
def _refusing(kind: type[Exception], key: str, value: str) -> Iterator[None]:
    """Say which setting a tracker cannot be opened with."""
    try:
        yield
    except kind as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ConfigError(
            f"tracking.{key} {shown(value)} cannot be used: {reason}; correct or remove it"
        ) from None


def _package(name: str, key: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"tracking.{key} is set, but {name} is not installed: {_INSTALL}"
        ) from None
