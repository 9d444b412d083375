"""The Ray cluster that a training job runs on, its workers, and what their failures come to.

A job that was submitted to a cluster runs there; started by hand, in a cluster of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
from ray.exceptions import ActorDiedError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from rove.config import EncoderSection
from rove.errors import ConfigError, RoveError
from training.storage import Storage

RUN = "train"
"""Ray Train's folder in a run's storage."""

_COPIES = {"runtime_resources", "working_dir_files"}  # folders that a submitted job is below


class Workers(Protocol):
    """What a section says about workers."""

    @property
    def num_workers(self) -> int:
        """How many."""

    @property
    def cpus_per_worker(self) -> int:
        """CPUs of each."""

    @property
    def gpus_per_worker(self) -> int:
        """GPUs of each."""

    @property
    def max_failures(self) -> int:
        """How often lost ones are replaced."""


@contextmanager
def connected() -> Iterator[None]:
    """Be connected to Ray, and no longer than before."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def check_size(workers: Workers, section: str) -> None:
    """Refuse more workers than the cluster has room for; `section` is their settings' name."""
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    wanted = workers.num_workers * workers.cpus_per_worker
    if wanted > have.get("CPU", 0):
        raise ConfigError(
            f"{workers.num_workers} workers with {workers.cpus_per_worker} CPUs each need {wanted} "
            f"CPUs, the cluster has {have.get('CPU', 0):g}; lower {section}.num_workers or "
            ".cpus_per_worker, or start more nodes"
        )
    if workers.num_workers * workers.gpus_per_worker > have.get("GPU", 0):
        raise ConfigError(
            f"{section}.gpus_per_worker is {workers.gpus_per_worker}, but the cluster has "
            f"{have.get('GPU', 0):g} GPUs for {workers.num_workers} workers; set it to 0 to train "
            f"on CPUs, or lower {section}.num_workers"
        )


def train(
    work: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    workers: Workers,
    storage: Storage,
    num_to_keep: int,
) -> None:
    """Let the workers do `work` to the end; they go on from the latest checkpoint in `storage`."""
    on_gpu = workers.gpus_per_worker > 0
    resources = {"CPU": float(workers.cpus_per_worker)}
    trainer = TorchTrainer(
        work,
        train_loop_config=settings,
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=on_gpu,
            resources_per_worker=resources | ({"GPU": 1.0} if on_gpu else {}),
        ),
        run_config=RunConfig(
            name=RUN,
            storage_path=storage.folder,
            storage_filesystem=storage.filesystem,  # with its endpoint, whatever nodes know
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=num_to_keep),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise plain(error) from None
    except ActorDiedError as error:
        raise RoveError(
            f"Ray Train's controller failed: {_last_line(error)}; its node must be able to write "
            f"to {storage.address}"
        ) from None


def warn_of_copy(paths: Iterable[Path | str | None]) -> None:
    """Say that what is written to relative paths stays in the copy of the folder that Ray made for
    a submitted job, if this is one."""
    here = Path.cwd()
    if not _COPIES <= set(here.parts):
        return
    relative = [str(path) for path in paths if path and not _is_elsewhere(str(path))]
    if relative:
        print(
            f"this job runs in a copy of the folder, {here}; {', '.join(relative)} will be there, "
            "and goes with the cluster: give absolute paths to keep them elsewhere",
            flush=True,
        )


def _is_elsewhere(path: str) -> bool:
    return "://" in path or Path(path).is_absolute()


def absolute(section: EncoderSection) -> EncoderSection:
    """Name a model's folder so that workers find it, whatever their working directory."""
    if not Path(section.model).is_dir():
        return section
    return section.model_copy(update={"model": str(Path(section.model).resolve())})


def plain(error: BaseException) -> RoveError:
    """Return the error that a worker raised on purpose, or one with the last line of its trace."""
    failures = getattr(error, "worker_failures", None) or {}
    cause: Any = next(iter(failures.values()), error)
    seen: Any = cause
    while seen is not None:
        if isinstance(seen, RoveError):
            return seen
        inner = getattr(seen, "_base_exc", None) or getattr(seen, "cause", None)
        seen = inner or getattr(seen, "controller_failure", None) or seen.__cause__
    return RoveError(f"the workers failed and were not replaced any more: {_last_line(cause)}")


def _last_line(error: BaseException) -> str:
    lines = str(error).split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), repr(error))
