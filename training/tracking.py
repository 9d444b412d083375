"""Where the figures of a run go: TensorBoard always, Weights & Biases and MLflow when configured.

A tracker sees numbers by name at a step; it runs in the command, never in a worker. Nothing of it
reports on its use, and W&B's offline mode does not use the network.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError
from tensorboardX import SummaryWriter

from rove.config import TrackingSection
from rove.errors import ConfigError, shown

_INSTALL = "pip install 'rove[tracking]'"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that is not there is known after some 15 s; MLflow itself tries for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "WANDB_ERROR_REPORTING": "false",
}
_BATCH = 100  # parameters of a request, MLflow's limit; it takes 1,000 numbers
_SEND_S = 2.0


class Tracker(Protocol):
    """Takes the figures of one run."""

    name: str
    failures: tuple[type[Exception], ...]
    """What it raises where it cannot take them: a run goes on without it."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take numbers by name."""

    def close(self, failed: bool) -> None:
        """Write what is left; `failed` says how the run ended."""


class TensorBoard:
    """Event files for `tensorboard --logdir`; a resumed run replaces what it does again."""

    name = "TensorBoard"
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, folder: Path, settings: Mapping[str, Any], start_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=start_step or None)
        table = "\n".join(["| key | value |", "| --- | --- |"])
        rows = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
        self._writer.add_text("settings", f"{table}\n{rows}", start_step)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take numbers by name."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of a project of Weights & Biases; `step` is a figure like the others, so that those of
    one step may come in any order."""

    name = "W&B"

    def __init__(
        self, wandb: Any, folder: Path, name: str, settings: Mapping[str, Any], to: TrackingSection
    ) -> None:
        self.failures: tuple[type[Exception], ...] = (wandb.Error, OSError)
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=to.wandb_project,
            name=name,
            mode=to.wandb_mode,
            dir=str(folder),
            config=dict(settings),
            # It would take over the terminal, whose progress bar is no log.
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take numbers by name."""
        self._run.log({"step": step, **figures})

    def close(self, failed: bool) -> None:
        """Write what is left."""
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of an MLflow experiment named after the system; numbers go in every two seconds."""

    name = "MLflow"

    def __init__(self, mlflow: Any, name: str, settings: Mapping[str, Any], uri: str) -> None:
        self.failures = _failures_of(mlflow)
        self._entities = importlib.import_module("mlflow.entities")
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run_id = self._client.create_run(number).info.run_id
        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        rows = [self._entities.Param(key, str(value)[:500]) for key, value in settings.items()]
        for start in range(0, len(rows), _BATCH):
            self._client.log_batch(self._run_id, params=rows[start : start + _BATCH])

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take numbers by name."""
        now_ms = int(time.time() * 1000)
        self._waiting += [
            self._entities.Metric(name, value, now_ms, step) for name, value in figures.items()
        ]
        if time.monotonic() - self._sent > _SEND_S:
            self._send()

    def close(self, failed: bool) -> None:
        """Write what is left and how the run ended."""
        self._send()
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")

    def _send(self) -> None:
        rows, self._waiting = self._waiting, []
        for start in range(0, len(rows), _BATCH):
            self._client.log_batch(self._run_id, metrics=rows[start : start + _BATCH])
        self._sent = time.monotonic()


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
        with _refusing((wandb.Error,), "wandb_project", section.wandb_project):
            trackers.append(WeightsAndBiases(wandb, folder, name, settings, section))
    if section.mlflow_uri is not None:
        mlflow = _package("mlflow", "mlflow_uri")
        with _refusing(_failures_of(mlflow), "mlflow_uri", section.mlflow_uri):
            trackers.append(MLflow(mlflow, name, settings, section.mlflow_uri))
    return trackers


def _failures_of(mlflow: Any) -> tuple[type[Exception], ...]:
    """Name what MLflow raises; a database, whose driver may be missing, has its own errors."""
    return mlflow.MlflowException, SQLAlchemyError, ImportError, OSError


@contextmanager
def _refusing(kinds: tuple[type[Exception], ...], key: str, value: str) -> Iterator[None]:
    """Say which setting a tracker cannot be opened with."""
    try:
        yield
    except kinds as error:
        raise ConfigError(
            f"tracking.{key} {shown(value)} cannot be used: {reason(error)}; correct or remove it"
        ) from None


def reason(error: BaseException) -> str:
    """Return the first line of what a tracker says."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def _package(name: str, key: str) -> Any:
    for variable, value in _ENVIRONMENT.items():  # read when the package is imported
        os.environ.setdefault(variable, value)
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"tracking.{key} is set, but {name} is not installed: {_INSTALL}"
        ) from None
