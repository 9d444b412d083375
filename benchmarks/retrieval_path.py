"""What the index wins on the whole path of a decision, at a million items.

    python -m training.factorise examples/shop/rove.yaml
    python -m benchmarks.retrieval_path [--items 1000000] [--write benchmarks/retrieval_path.md]

The release in service of the shop is enlarged: its items drawn with replacement, their features
with noise of `NOISE` deviations and so their popularity, in its logarithm. Then an engine's decider
answers requests of users with a past, with the index and with every item scored; recall is that of
the greedy ten best.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from rove.catalogue import Item
from rove.config import Config
from rove.deciding import Decider
from rove.engine import Engine
from rove.events import Interaction, InteractionType, RankRequest
from rove.learning import Learned
from rove.model import ItemFeatures
from rove.release import latest, promote, write
from rove.view import View

NOISE = 0.3
NUM_USERS, NUM_CHOSEN = 100, 5
KINDS = ("greedy", "thompson")


def enlarged(config: Config, num_items: int, folder: Path) -> Config:
    """Write a large release into `folder` and return the configuration of its service."""
    base, rng = latest(config.releases.path), np.random.default_rng(3)
    row_J = rng.integers(len(base.sums_J), size=num_items)
    features_JD = np.asarray(base.items.features_JD)[row_J]
    noise_JD = rng.standard_normal(features_JD.shape, np.float32)
    features_JD += np.float32(NOISE) * features_JD.std(0) * noise_JD
    # As with the features, no two items are as popular.
    share_J = len(base.sums_J) / num_items * np.exp(NOISE * rng.standard_normal(num_items))
    learned = Learned(
        model=base.model,
        items=ItemFeatures(
            features_JD=features_JD,
            promise_J=np.asarray(base.items.promise_J)[row_J] * share_J,
            trained_J=np.asarray(base.items.trained_J)[row_J],
        ),
        sums_J=np.asarray(base.sums_J)[row_J] * share_J,
        as_of_s=base.as_of_s,
        num_sweeps=0,
        calibration={},
    )
    tree = config.model_dump(mode="json")
    tree["releases"]["path"] = str(folder / "releases")
    tree["store"]["url"] = f"sqlite:///{folder / 'ledger'}"
    tree["serving"]["shards"] = 1
    large = Config.parse(tree)
    (folder / "encoder").mkdir()
    written = write(
        large.releases.path,
        learned,
        [Item(item_id=f"item-{row}", title="an item") for row in range(num_items)],
        np.zeros((num_items, base.embeddings_JE.shape[1]), np.float32),
        encoder=base.encoder,
        encoder_folder=folder / "encoder",
        metrics={},
        exact_items=1,
        most_read=1.0,
    )
    promote(large.releases.path, written.name)
    return large


def measured(engine: Engine, config: Config) -> list[str]:
    """Return a row for each kind of policy."""
    view = engine.view
    assert isinstance(view, View) and view.decider.finder.retriever is not None
    lines = []
    for kind in KINDS:
        section = config.policy.model_copy(update={"kind": kind})
        index, exact = (
            Decider(section, view.index, view.scorer, retriever)
            for retriever in (view.decider.finder.retriever, None)
        )
        shown: dict[str, list[set[str]]] = {}
        seconds: dict[str, float] = {}
        for name, decider in (("exact", exact), ("index", index)):
            shown[name], begun = [], time.process_time()
            for number in range(NUM_USERS):
                request = RankRequest(user_id=f"u{number}", k=10)
                user = view.users.get(request.user_id)
                (choice,) = decider.decide([request], [user], [number], view.now_s, {})
                assert not isinstance(choice, Exception)
                shown[name].append({slot.item_id for slot in choice.slots})
            seconds[name] = time.process_time() - begun
        pairs = zip(shown["index"], shown["exact"], strict=True)
        recall = np.mean([len(found & best) / len(best) for found, best in pairs])
        lines.append(
            f"| {kind} | {seconds['exact'] / NUM_USERS * 1e3:.1f} | "
            f"{seconds['index'] / NUM_USERS * 1e3:.2f} | "
            f"{seconds['exact'] / seconds['index']:.1f} | "
            + (f"{recall:.4f} |" if kind == "greedy" else "|")
        )
    return lines


def main() -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="examples/shop/rove.yaml")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        config = enlarged(Config.load(options.config), options.items, Path(folder))
        # The shop's history is long past: the service goes on where it ends.
        now_s = latest(config.releases.path).as_of_s + 3600.0
        engine = Engine.open(config, 0, 1, clock=lambda: now_s)
        rng = np.random.default_rng(5)
        engine.observe(
            [
                Interaction(
                    interaction_id=f"i{user}-{number}",
                    user_id=f"u{user}",
                    item_id=f"item-{rng.integers(options.items)}",
                    type=InteractionType.PURCHASE,
                )
                for user in range(NUM_USERS)
                for number in range(NUM_CHOSEN)
            ]
        )
        rows = measured(engine, config)
        size = engine.view.release.model.num_factors
        engine.close()
    lines = [
        "# The index on the path of a decision",
        "",
        f"`python -m benchmarks.retrieval_path --items {options.items}`, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, one core ({platform.machine()}), "
        "processor time. Written by the program.",
        "",
        f"{options.items:,} items, {size} factors, {NUM_USERS} users with {NUM_CHOSEN} purchases; "
        "ten slots, one request at a time.",
        "",
        "| policy | every item ms | index ms | times faster | recall of the ten best |",
        "| --- | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write is not None:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
