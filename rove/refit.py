"""Learn the model anew from everything in the ledger, while shards go on serving.

Half-lives and gains stay those of the release in service, once it had enough visits to read them
off; factors, tastes, variances and item means are learnt from the interactions of all shards up to
a watermark. The language model is not
needed: the items' embeddings are in the release and in the catalogue's store. The shards follow
the pointer when they next synchronise, and count what came after the watermark themselves.
"""

from __future__ import annotations

from pathlib import Path

from rove.behaviour import Behaviour
from rove.calibration import MIN_VISITS, NUM_VISITS
from rove.config import Config
from rove.errors import Conflict
from rove.item_index import ItemIndex
from rove.learning import learn
from rove.ledger.items import ItemStore
from rove.ledger.scan import all_interactions, watermark
from rove.release import NUM_INTERACTIONS, REFIT_OF, current, latest, promote, prune, write

KEPT_REFITS = 3
LEAST_SHARE = 0.5
"""A ledger with less than this share of what the release was learnt from lacks its history."""


def refit(config: Config, store: ItemStore) -> Path:
    """Write a release learnt from the ledger, put it into service and return its folder.

    Raises `Conflict`, and leaves the service as it is, if another release was promoted meanwhile
    or the ledger lacks the history that the release in service was learnt from.
    """
    releases = config.releases.path
    base = latest(releases)
    index = ItemIndex(base)
    index.apply(store.changes_since(0)[0])
    items, rows = index.items()
    embeddings_JE = index.embeddings(rows)
    mark = watermark(config.store)
    row_of = {item.item_id: row for row, item in enumerate(items)}
    behaviour = Behaviour.from_batches(all_interactions(config.store, mark), row_of)
    known = base.metrics.get(NUM_INTERACTIONS, 0)
    if len(behaviour) < LEAST_SHARE * known:
        raise Conflict(
            f"the ledger has {len(behaviour)} interactions, release {base.id} was learnt from "
            f"{known}; bring its history into the ledger with rove load CONFIG first"
        )
    num_visits = base.metrics.get(NUM_VISITS, 0)
    calibrated = base.model if num_visits >= MIN_VISITS else None
    learned = learn(behaviour, embeddings_JE, config.training, calibrated=calibrated)
    folder = write(
        releases,
        learned,
        items,
        embeddings_JE,
        encoder=base.encoder,
        encoder_folder=base.encoder_folder,
        metrics={
            NUM_VISITS: learned.calibration.get(NUM_VISITS, num_visits),
            REFIT_OF: base.id,
            NUM_INTERACTIONS: len(behaviour),
        },
        watermark=mark,
    )
    if current(releases).name != base.id:
        raise Conflict(f"release {base.id} was replaced while {folder.name} was learnt from it")
    promote(releases, folder.name)
    prune(releases, KEPT_REFITS)
    return folder
