"""From behaviour to a release whose encoder has an adapter: read, train on Ray, learn, promote.

    training.adapt_data      texts and behaviour
    training.adapt_worker    what every worker does
    training.following       news -> terminal, trackers
    training.adapt_report    the report
    training.first_release   embeddings and behaviour -> release

`adapt.path` gets the adapter, the figures of every epoch (`curve.json`), the report, the settings
and TensorBoard's files; `run.json` (what was trained on, so that a folder goes on with nothing
else) and Ray's own state with the checkpoints are there too, or in `adapt.storage`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import ray

from rove.adaptation import adapters
from rove.adaptation.run import NUMBERS
from rove.config import Config
from rove.encoder import digest_of, load_model
from rove.errors import ConfigError, DataError
from training import adapt_data, checkpoint, cluster, tracking
from training.adapt_data import Prepared
from training.adapt_report import NONE, best_of, write_report
from training.adapt_worker import ADAPTER, BEFORE, RUN, Job, work
from training.first_release import run as make_release
from training.following import Follower
from training.news import News
from training.storage import Storage

_CARD = "run.json"
_KEPT = 2  # checkpoints
_RESTARTS = (
    "max_failures",
    "num_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "path",
    "storage",
    "tracking",
)
"""Settings that a run may go on with others of."""


def run(config: Config, *, from_ledger: bool, with_report: bool) -> Path:
    """Adapt the encoder, put a release with it into service and return the release's folder."""
    section = config.adapt
    tracking.check(section.tracking)
    cluster.warn_of_copy([section.path, section.storage, config.releases.path])
    prepared = adapt_data.read(config, from_ledger=from_ledger)
    _check_settings(config)
    own = Storage.open(section.path, "adapt")
    storage = Storage.open(section.storage, "adapt") if section.storage else own
    _claim(storage, _identity(config, prepared))
    start_step = _check_checkpoint(storage)
    with cluster.connected():
        cluster.check_size(section, "adapt")
        facts = _train(config, prepared, storage, start_step)
    before, curve = _take(storage, section.path)
    adapter = section.path / ADAPTER
    size_mb = sum(path.stat().st_size for path in adapter.iterdir()) / 1e6
    print(f"adapter: {adapter} ({size_mb:.1f} MB)", flush=True)
    print(f"report: {write_report(config, before, curve, facts, size_mb)}", flush=True)
    # Without `adapt.start` an adapter that did not help is the identity: not worth its time.
    helps = best_of(curve) is not None or section.start is not None
    if not helps:
        print(f"epochs: {NONE}", flush=True)
    encoder = config.encoder.model_copy(update={"adapter": adapter if helps else None})
    adapted = config.model_copy(update={"encoder": encoder})
    adapted.write(section.path)
    release = make_release(adapted, from_ledger=from_ledger, with_report=with_report).resolve()
    print(f"the release is in {release}", flush=True)
    return release


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


def _claim(storage: Storage, identity: str) -> None:
    """Note what the run's folder is for; refuse one of another run."""
    card = storage.read_json(_CARD)
    if card is None:
        storage.write_json(_CARD, {"identity": identity})
        return
    if card.get("identity") != identity:
        raise ConfigError(
            f"{storage.address} (adapt.path, .storage) holds a run of other data or settings; "
            "give another folder, or remove it"
        )
    print(f"{storage.address}: going on with the run that is there", flush=True)


def _check_checkpoint(storage: Storage) -> int:
    """Read the checkpoint that the run would go on from; return its step, or 0."""
    with storage.latest(cluster.RUN) as folder:
        if folder is None:
            return 0
        place = f"{storage.address}/{storage.checkpoints(cluster.RUN)[-1]}"
        checkpoint.check(folder, place, "adapt")
        return int(json.loads((folder / RUN / NUMBERS).read_text("utf-8"))["step"])


def _train(config: Config, prepared: Prepared, storage: Storage, start_step: int) -> dict[str, Any]:
    """Let the workers train; return what the run was like."""
    section = config.adapt
    news = ray.remote(num_cpus=0)(News).remote()
    start = section.start.resolve() if section.start else None
    absolute = config.model_copy(
        update={
            "encoder": cluster.absolute(config.encoder),
            "adapt": section.model_copy(update={"start": start}),
        }
    )
    job = Job(config=absolute, prepared=ray.put(prepared), news=news)
    follower = Follower(
        news,
        title="adapting",
        name=config.name,
        folder=section.path,
        tracking=section.tracking,
        settings=section.model_dump(mode="json", exclude={"tracking"}),
        start_step=start_step,
    )
    with follower:
        cluster.train(work, {"job": job}, section, storage, _KEPT)
    return follower.facts


def _take(storage: Storage, target: Path) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Leave adapter and curve in the run's folder; return the figures before and of all epochs."""
    with storage.latest(cluster.RUN) as folder:
        if folder is None:
            raise DataError(f"{storage.address}: the run has no checkpoint; remove it, start again")
        before = json.loads((folder / BEFORE).read_text("utf-8"))
        curve = json.loads((folder / RUN / NUMBERS).read_text("utf-8"))["curve"]
        incoming = target / f".{ADAPTER}"
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.copytree(folder / ADAPTER, incoming)
        shutil.rmtree(target / ADAPTER, ignore_errors=True)
        os.replace(incoming, target / ADAPTER)
    (target / "curve.json").write_text(json.dumps(curve, indent=1) + "\n", "utf-8")
    return before, curve
