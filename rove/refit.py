"""Learn the model anew from everything in the ledger, while shards go on serving.

Half-lives and gains stay those of the release in service; factors, tastes, variances and item
means are learnt from the interactions of all shards up to a watermark. The language model is not
needed: the items' embeddings are in the release and in the catalogue's store. The shards follow
the pointer when they next synchronise, and count what came after the watermark themselves.
"""

from __future__ import annotations

from pathlib import Path

from rove.behaviour import Behaviour
from rove.config import Config
from rove.errors import Conflict
from rove.item_index import ItemIndex
from rove.learning import learn
from rove.ledger.items import ItemStore
from rove.ledger.scan import all_interactions, watermark
from rove.release import current, latest, promote, prune, write

KEPT_REFITS = 3


def refit(config: Config, store: ItemStore) -> Path:
    """Write a release learnt from the ledger, put it into service and return its folder.

    Raises `Conflict`, and leaves the service as it is, if another release was promoted meanwhile.
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
    calibrated = base.model if base.as_of_s else None  # one learnt from texts alone has nothing
    folder = write(
        releases,
        learn(behaviour, embeddings_JE, config.training, calibrated=calibrated),
        items,
        embeddings_JE,
        encoder=base.encoder,
        encoder_folder=base.encoder_folder,
        metrics={"refit_of": base.id, "num_interactions": len(behaviour)},
        watermark=mark,
    )
    if current(releases).name != base.id:
        raise Conflict(f"release {base.id} was replaced while {folder.name} was learnt from it")
    promote(releases, folder.name)
    prune(releases, KEPT_REFITS)
    return folder
