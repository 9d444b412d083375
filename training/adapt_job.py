"""From behaviour to a release whose encoder has an adapter: read, train on Ray, learn, promote.

    training.adapt_data      texts and behaviour
    training.adapt_worker    what every worker does
    training.first_release   embeddings and behaviour -> release

`adapt.path` gets the adapter, the figures of every epoch (`curve.json`) and the settings; Ray's own
state and the checkpoints are in `ray/` there, or in `adapt.storage`. What was trained on is in
`run.json`, so that a folder goes on with nothing else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from rove.adaptation import adapters
from rove.adaptation.run import NUMBERS
from rove.config import Config
from rove.encoder import digest_of, load_model
from rove.errors import ConfigError, DataError, RoveError, StoreUnavailable
from training import adapt_data
from training.adapt_data import Prepared
from training.adapt_worker import ADAPTER, RUN, Job, work
from training.first_release import run as make_release

_RAY = "ray"
_KEPT = 2  # checkpoints
_RESTARTS = ("max_failures", "num_workers", "cpus_per_worker", "gpus_per_worker", "path", "storage")
"""Settings that a run may go on with others of."""


def run(config: Config, *, from_ledger: bool, with_report: bool) -> Path:
    """Adapt the encoder, put a release with it into service and return the release's folder."""
    section = config.adapt
    prepared = adapt_data.read(config, from_ledger=from_ledger)
    _check_settings(config)
    _claim(section.path, _identity(config, prepared))
    with _cluster(config):
        _train(config, prepared)
    adapter = section.path / ADAPTER
    size_mb = sum(path.stat().st_size for path in adapter.iterdir()) / 1e6
    print(f"adapter: {adapter} ({size_mb:.1f} MB)", flush=True)
    encoder = config.encoder.model_copy(update={"adapter": adapter})
    adapted = config.model_copy(update={"encoder": encoder})
    adapted.write(section.path)
    return make_release(adapted, from_ledger=from_ledger, with_report=with_report)


def _check_settings(config: Config) -> None:
    """Raise what is wrong with model, method and start before any worker is started."""
    model, tokenizer = load_model(config.encoder)
    base = digest_of(model, tokenizer)
    adapter = adapters.attach(model, config.adapt, total_steps=100)
    if config.adapt.start is not None:
        adapters.load_into(adapter, adapters.read(config.adapt.start, base), config.adapt)


def _identity(config: Config, prepared: Prepared) -> str:
    """Return a hash of the settings and data that decide what comes out."""
    settings = config.adapt.model_dump(mode="json", exclude=set(_RESTARTS))
    settings["encoder"] = [config.encoder.model, config.encoder.max_tokens]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for text in prepared.texts:
        digest.update(text.encode("utf-8", "replace") + b"\0")
    for column in (prepared.every.users, prepared.every.items, prepared.every.timestamps):
        digest.update(np.ascontiguousarray(column).data)
    digest.update(prepared.weights.data)
    return digest.hexdigest()


def _claim(path: Path, identity: str) -> None:
    """Note what the run's folder is for; refuse one of another run."""
    card = path / "run.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if card.is_file():
            if json.loads(card.read_text("utf-8")).get("identity") != identity:
                raise ConfigError(
                    f"adapt.path {path} holds a run of other data or settings; give another "
                    "folder, or remove it"
                )
            print(f"{path}: going on with the run that is there", flush=True)
        else:
            card.write_text(json.dumps({"identity": identity}) + "\n", "utf-8")
    except OSError as error:
        raise StoreUnavailable(f"adapt.path {path} cannot be written: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{card}: damaged; remove the folder {path}") from None


@contextmanager
def _cluster(config: Config) -> Iterator[None]:
    """Be connected to Ray: to the cluster that runs this job, or to one of this process."""
    section = config.adapt
    mine = not ray.is_initialized()
    if mine:
        ray.init(log_to_driver=True, configure_logging=False)
    try:
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        for kind, each in (("CPU", section.cpus_per_worker), ("GPU", section.gpus_per_worker)):
            wanted = section.num_workers * each
            if wanted > there.get(kind, 0.0):
                raise ConfigError(
                    f"adapt.num_workers {section.num_workers} with {each} {kind} each needs "
                    f"{wanted}, the cluster has {there.get(kind, 0.0):g}; lower adapt.num_workers"
                )
        yield
    finally:
        if mine:
            ray.shutdown()


def _train(config: Config, prepared: Prepared) -> None:
    """Run the workers and leave adapter and curve in the run's folder."""
    section = config.adapt
    storage = section.storage or str((section.path / _RAY).absolute())
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": Job(config=config, prepared=ray.put(prepared))},
        scaling_config=ScalingConfig(
            num_workers=section.num_workers,
            use_gpu=section.gpus_per_worker > 0,
            resources_per_worker=_resources(config),
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=section.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=_KEPT),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise _explained(error) from None
    if result.checkpoint is None:
        raise DataError(f"{storage}: the run has no checkpoint; remove the folder and start again")
    with result.checkpoint.as_directory() as name:
        folder = Path(name)
        shutil.rmtree(section.path / ADAPTER, ignore_errors=True)
        shutil.copytree(folder / ADAPTER, section.path / ADAPTER)
        curve = json.loads((folder / RUN / NUMBERS).read_text("utf-8"))["curve"]
    (section.path / "curve.json").write_text(json.dumps(curve, indent=1) + "\n", "utf-8")


def _resources(config: Config) -> dict[str, float]:
    section = config.adapt
    resources = {"CPU": float(section.cpus_per_worker)}
    return resources | ({"GPU": 1.0} if section.gpus_per_worker else {})


def _explained(error: BaseException) -> RoveError:
    """Return the error that a worker raised on purpose, or one with the last line of its trace."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    for failure in failures.values():
        seen: BaseException | None = failure
        while seen is not None:
            if isinstance(seen, RoveError):
                return seen
            following = getattr(seen, "_base_exc", None) or getattr(seen, "cause", None)
            seen = following or getattr(seen, "controller_failure", None) or seen.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return StoreUnavailable(f"the workers failed: {lines[-1].strip() if lines else error!r}")
