"""From files to a release in service: read, encode, learn, measure, write, promote.

    rove.readers            catalogue and history from files (or rove.ledger.scan, from the ledger)
    rove.encoder            texts -> embeddings
    rove.learning           embeddings and behaviour -> reward model
    training.parallel_fit   who learns: this process, or several
    training.better         whether an adapter is worth having
    training.quality        held-out ranking quality beside popularity and ALS

The reported quality is that of a model which saw nothing of the held-out part, not for its
half-lives either; the release itself is then learnt from everything.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rove.behaviour import Behaviour
from rove.catalogue import Item
from rove.config import Config, EncoderSection
from rove.encoder import Encoder
from rove.learning import Learned, learn
from rove.model import Vectors
from rove.release import NUM_INTERACTIONS, promote, write
from rove.user_blocks import Spread
from training.better import compare
from training.parallel_fit import spread_over
from training.quality import Quality, measure
from training.reading import read_behaviour, read_items


def run(config: Config, *, from_ledger: bool, with_report: bool) -> Path:
    """Learn a release, put it into service and return its folder."""
    with spread_over(config.training.num_workers) as spread:
        return _run(config, spread, from_ledger=from_ledger, with_report=with_report)


def _run(config: Config, spread: Spread, *, from_ledger: bool, with_report: bool) -> Path:
    items = read_items(config)
    behaviour = read_behaviour(config, items, from_ledger=from_ledger)
    if behaviour is None:
        print("data.interactions is not set: learning from the texts alone")
        rows = {item.item_id: row for row, item in enumerate(items)}
        behaviour = Behaviour.from_batches([], rows)
    encoder, embeddings_JE, choice = _read(items, behaviour, config, spread)
    quality = _quality(behaviour, embeddings_JE, config) if with_report else None
    with _step(f"learning from {len(behaviour):,} interactions"):
        learned = learn(behaviour, embeddings_JE, config.training, spread=spread)
    print(describe(learned))
    releases = config.releases.path
    with tempfile.TemporaryDirectory() as folder, _step("writing the release"):
        encoder.save(Path(folder))
        release = write(
            releases,
            learned,
            items,
            embeddings_JE,
            encoder=encoder.name,
            encoder_folder=Path(folder),
            metrics={
                NUM_INTERACTIONS: len(behaviour),
                **choice,
                **(quality.metrics() if quality else {}),
            },
        )
    config.write(releases / "runs" / release.name)
    promote(releases, release.name)
    print(f"release {release.name} is in service: {release}")
    return release


def describe(learned: Learned) -> str:
    """Say in words what was learnt."""
    model, day_s = learned.model, 86_400.0
    return (
        f"popularity fades by half in {model.item_half_life_s / day_s:.0f} days, taste in "
        f"{model.taste_half_life_s / day_s:.0f}; a text's promise is worth "
        f"{model.pseudo_count:.0f} interactions; noise variance {model.noise_variance:.4g}; "
        f"{model.num_factors} factors, {learned.num_sweeps} sweeps"
    )


def _read(
    items: Sequence[Item], behaviour: Behaviour, config: Config, spread: Spread
) -> tuple[Encoder, Vectors, dict[str, float]]:
    """Return the encoder, what it reads in the items, and the figures that chose it, if any did."""
    encoder, embeddings_JE = _encoded(items, config.encoder)
    if config.encoder.adapter is None or config.training.adapter == "always":
        return encoder, embeddings_JE, {}
    frozen = _encoded(items, config.encoder.model_copy(update={"adapter": None}))
    with _step("comparing the model with the adapter and without"):
        found = compare(behaviour, embeddings_JE, frozen[1], config, spread)
    if found is None:
        print("the adapter is not used: there is too little history to compare it on")
        return *frozen, {}
    print(found.line())
    if not found.is_better:
        encoder, embeddings_JE = frozen
    return encoder, embeddings_JE, found.metrics()


def _encoded(items: Sequence[Item], section: EncoderSection) -> tuple[Encoder, Vectors]:
    with _step(f"encoding {len(items):,} items"):
        encoder = Encoder.load(section)
        return encoder, encoder.encode([item.text for item in items])


def _quality(behaviour: Behaviour, embeddings_JE: Vectors, config: Config) -> Quality | None:
    past, future = behaviour.split(config.training.holdout_share)
    if len(past) == 0 or len(future) == 0:
        print("too little history to hold any of it out: no quality report")
        return None
    with _step(f"measuring on the last {len(future):,} interactions"):
        quality = measure(past, future, embeddings_JE, config)
    print(quality.table())
    return quality


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"{title} ...", flush=True)
    start = time.perf_counter()
    yield
    print(f"{title}: {time.perf_counter() - start:.1f} s", flush=True)
