"""Large catalogues: the index finds what scoring everything would, and what is shown stays true."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rove.deciding import Decider
from rove.engine import Engine
from rove.errors import ReleaseError
from rove.events import Decision
from rove.learning import Learned
from rove.release import Release, latest, promote, write
from rove.retrieval import MaxProductIndex, RowSet
from rove.scoring import Part
from rove.shortlisting import Shortlister
from rove.users import Taste, User
from tests.worlds import (
    ENCODER,
    NUM_ITEMS,
    Shop,
    Vectors,
    did,
    embeddings,
    item,
    learned,
    observe,
    rank,
    request,
    unit_vectors,
    view_of,
)

pytest.importorskip("faiss")
NUM = 20_000


@cache
def world() -> tuple[Vectors, Vectors]:
    """20,000 vectors around 200 centres with heavy-tailed norms and popularity, 100 queries."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, 16))
    spread = centres[rng.integers(0, 200, NUM)] + 0.7 * rng.normal(size=(NUM, 16))
    popular = np.minimum(rng.pareto(1.5, (NUM, 1)), 50.0)
    items = np.hstack([spread * rng.lognormal(0.0, 0.5, (NUM, 1)), popular]).astype(np.float32)
    queries = np.hstack([centres[:100] + rng.normal(size=(100, 16)), np.ones((100, 1))])
    return items, queries.astype(np.float32)


@cache
def built() -> MaxProductIndex:
    return MaxProductIndex.build(world()[0])


def large(shop: Shop, num_items: int = 2000, most_read: float = 1.0) -> None:
    """Put a release of many items into service, with an index: the shop's model read from texts."""
    model = learned().model
    vectors = np.vstack(
        [embeddings(), unit_vectors(num_items - NUM_ITEMS, np.random.default_rng(5))]
    )
    items = model.read(vectors)
    items.features_JD[:NUM_ITEMS] = learned().items.features_JD
    items.trained_J[:NUM_ITEMS] = learned().items.trained_J
    sums_J = np.zeros(num_items)
    sums_J[:NUM_ITEMS] = learned().sums_J
    many = Learned(
        model=model,
        items=items,
        sums_J=sums_J,
        as_of_s=learned().as_of_s,
        num_sweeps=learned().num_sweeps,
        calibration=learned().calibration,
    )
    releases = shop.folder / "releases"
    written = write(
        releases,
        many,
        [item(number) for number in range(num_items)],
        vectors,
        encoder=ENCODER,
        encoder_folder=shop.folder / "encoder",
        metrics={},
        exact_items=1000,
        most_read=most_read,
    )
    promote(releases, written.name)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    large(made)
    return made


def decider(engine: Engine) -> Decider[User, Taste, Part]:
    assert view_of(engine).decider.finder.retriever is not None
    return view_of(engine).decider


def shown(decision: Decision) -> list[str]:
    return [slot.item_id for slot in decision.slots]


def means_of(engine: Engine, user_id: str) -> dict[str, float]:
    """Return the exact mean of every item that can be shown."""
    scorer, index = view_of(engine).scorer, view_of(engine).index
    taste = scorer.taste(view_of(engine).users.get(user_id), view_of(engine).now_s)
    mean_J = scorer.catalogue_means(scorer.item_part(), [taste])[0].tolist()
    return {index.ids[row]: mean_J[row] for row in np.flatnonzero(index.active).tolist()}


def best_items(engine: Engine, user_id: str, num: int) -> list[str]:
    """Return the items of the largest exact means among all that can be shown."""
    means = means_of(engine, user_id)
    return sorted(means, key=lambda item_id: -means[item_id])[:num]


def test_it_finds_the_largest_inner_products() -> None:
    items, queries = world()
    hits = 0
    for query in queries:
        best = np.argsort(-(items @ query))[:10]
        hits += len(np.intersect1d(best, built().search(query[None], 64)))
    assert hits >= 0.99 * 10 * len(queries)


def test_as_many_lists_are_read_as_sample_queries_need(tmp_path: Path) -> None:
    items, queries = world()
    index = MaxProductIndex.build(items)
    recall = index.tune(items, queries[:50], 64)
    hits = [
        np.isin(np.argsort(-(items @ query))[:10], index.search(query[None], 64)).mean()
        for query in queries[50:]
    ]
    assert recall >= 0.995 and np.mean(hits) >= 0.99
    index.write(tmp_path / "index")
    assert MaxProductIndex.open(tmp_path / "index").num_probed == index.num_probed


def test_tuning_reads_everything_rather_than_miss_items() -> None:
    """Directions without any structure: only all lists find all of the best."""
    items = np.random.default_rng(0).normal(size=(2000, 48)).astype(np.float32)
    index = MaxProductIndex.build(items)
    assert index.tune(items, items[:20] - items[20:40], 10) >= 0.995


def test_a_query_does_not_depend_on_those_beside_it() -> None:
    queries = world()[1]
    together = built().search(queries[:4], 10)
    alone = [built().search(query[None], 10) for query in queries[:4]]
    assert np.array_equal(together, np.unique(np.concatenate(alone)))


def test_rows_that_may_not_be_shown_are_left_out() -> None:
    allowed = np.arange(NUM) % 2 == 0
    found = built().search(world()[1][:1], 64, RowSet(allowed))
    assert len(found) == 64 and (found % 2 == 0).all()


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    built().write(tmp_path / "index")
    opened = MaxProductIndex.open(tmp_path / "index")
    assert (opened.num_rows, opened.num_columns) == (NUM, 17)
    query = world()[1][:1]
    assert np.array_equal(opened.search(query, 64), built().search(query, 64))


def test_building_twice_gives_the_same() -> None:
    again, query = MaxProductIndex.build(world()[0]), world()[1][:1]
    assert np.array_equal(again.search(query, 64), built().search(query, 64))


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"nonsense")
    with pytest.raises(ReleaseError, match=re.escape("index: not a complete index")):
        MaxProductIndex.open(tmp_path / "index")


def test_an_index_that_was_cut_off_is_refused(shop: Shop) -> None:
    path = latest(shop.folder / "releases").retrieval_path
    assert path is not None
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ReleaseError, match=re.escape("learn the release anew")):
        Release.open(path.parent)


def test_a_small_catalogue_is_scored_whole(tmp_path: Path) -> None:
    engine = Shop(tmp_path).engine()
    assert view_of(engine).release.retrieval_path is None
    assert view_of(engine).decider.finder.retriever is None


def test_the_best_items_are_found(shop: Shop) -> None:
    engine = shop.engine(kind="greedy")
    observe(engine, *(did(f"i{n}", f"u{n}", f"item-{n}") for n in range(20)))
    for number in range(20):
        decision = rank(engine, request(f"u{number}", k=10))
        assert set(shown(decision)) == set(best_items(engine, f"u{number}", 10))
        assert decision.num_candidates == 2000


def test_untouched_items_keep_their_exact_place_as_time_and_others_move(shop: Shop) -> None:
    """The index's product with the queries of now is the exact mean, a year and rewards later."""
    engine = shop.engine(kind="greedy")
    shop.clock.now += 365 * 86_400.0
    observe(engine, *(did(f"i{n}", "bob", f"item-{n}") for n in range(5)))
    lister, scorer = decider(engine).finder.retriever, view_of(engine).scorer
    assert isinstance(lister, Shortlister)
    user = view_of(engine).users.get("ann")
    taste = scorer.taste(user, view_of(engine).now_s)
    rows = np.arange(20, 40)
    (query,) = lister._queries(user, taste, 0.0, 1)
    stored = np.stack([lister._found._index.reconstruct(row) for row in stored_rows(lister, rows)])
    expected = scorer.means(scorer.read_part(), taste, rows)
    assert stored[:, :-1] @ query == pytest.approx(expected, rel=1e-3, abs=1e-6)


def stored_rows(lister: object, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> list[int]:
    lister._found._index.make_direct_map()  # type: ignore[attr-defined]
    return [int(row) for row in rows]


def test_an_item_that_rises_is_looked_at(shop: Shop) -> None:
    engine = shop.engine(kind="greedy")
    wanted = "item-1234"
    observe(engine, *(did(f"i{n}", f"u{n}", wanted) for n in range(400)))
    assert wanted in best_items(engine, "nobody", 5)
    assert wanted in shown(rank(engine, request("nobody", k=5)))


def test_added_items_can_be_shown_at_once(shop: Shop) -> None:
    engine = shop.engine(kind="greedy")
    liked = best_items(engine, "nobody", 1)[0]
    row = view_of(engine).index.row(liked)
    assert row is not None
    vector = view_of(engine).index.embeddings([row])
    shop.catalogue().put([item(9000)], vector, ENCODER)
    engine.sync()
    for n in range(30):
        observe(engine, did(f"i{n}", f"u{n}", "item-9000"))
    assert "item-9000" in best_items(engine, "nobody", 20)
    assert "item-9000" in shown(rank(engine, request("nobody", k=20)))


def test_removed_excluded_and_seen_items_are_never_shown(shop: Shop) -> None:
    engine = shop.engine(kind="thompson", strength=0.1)
    best = best_items(engine, "ann", 30)
    for item_id in best[:10]:
        shop.catalogue().delete([item_id])
    engine.sync()
    observe(engine, *(did(f"i{n}", "ann", item_id) for n, item_id in enumerate(best[10:20])))
    wanted = request("ann", k=10, exclude_seen=True, excluded_items=best[20:])
    for number in range(10):
        decision = rank(engine, request("ann", f"e{number}", k=10, exclude_seen=True))
        assert not set(shown(decision)) & set(best[:20])
    decision = rank(engine, wanted)
    assert not set(shown(decision)) & set(best) and decision.num_candidates == 1970


def test_a_restart_gives_the_same_answer(shop: Shop, tmp_path: Path) -> None:
    """The same state and ids: answered by one engine at once, by another one by one."""
    engine = shop.engine()
    observe(engine, did("i1"), did("i2", item_id="item-9"))
    first = [choices(engine, n) for n in range(5)]
    engine.close()
    again = shop.engine()
    assert [choices(again, n) for n in range(5)] == first


def choices(engine: Engine, seed: int) -> list[tuple[str, float, float]]:
    view = view_of(engine)
    user = view.users.get("ann")
    (choice,) = view.decider.decide([request("ann", k=5)], [user], [seed], view.now_s, {})
    assert not isinstance(choice, Exception)
    return [(slot.item_id, slot.score, slot.propensity) for slot in choice.slots]


def test_a_slate_does_not_depend_on_its_batch(shop: Shop) -> None:
    engine = shop.engine()
    view, names = view_of(engine), ["ann", "bob", "cas"]
    requests = [request(name, k=5) for name in names]
    users = [view.users.get(name) for name in names]
    together = view.decider.decide(requests, users, [1, 2, 3], view.now_s, {})
    for n in range(3):
        (alone,) = view.decider.decide([requests[n]], [users[n]], [n + 1], view.now_s, {})
        assert alone == together[n]


def test_propensities_are_those_of_the_draws(shop: Shop) -> None:
    """One slot of Thompson with 16 draws: every propensity is a whole number of sixteenths."""
    engine = shop.engine(strength=1.0)
    for number in range(30):
        (slot,) = rank(engine, request("ann", f"e{number}", k=1)).slots
        assert slot.propensity > 0 and (16 * slot.propensity) % 1 == 0


def test_a_request_for_much_of_the_catalogue_is_scored_whole(shop: Shop) -> None:
    engine = shop.engine(kind="greedy")
    decision = rank(engine, request("ann", k=1500))
    scores = means_of(engine, "ann")
    expected = [scores[item_id] for item_id in best_items(engine, "ann", 1500)]
    # Equal scores may come in another order, and of those of the last place some are left out.
    assert [slot.score for slot in decision.slots] == expected
    assert [scores[slot.item_id] for slot in decision.slots] == expected


def test_an_index_that_would_have_to_read_everything_is_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path)
    large(shop, most_read=0.0)
    engine = shop.engine(kind="greedy")
    assert view_of(engine).release.retrieval_path is None
    assert view_of(engine).decider.finder.retriever is None
    assert "the release gets no index" in caplog.text
    assert len(shown(rank(engine, request("ann", k=10)))) == 10
