"""An export has everything that is held of a person, and of nobody else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rove.config import StoreSection
from rove.engine import Engine
from rove.errors import InvalidInput, NotFound
from rove.records import UserExport
from tests.worlds import Shop, did, embeddings, observe, rank, request


@pytest.fixture
def engine(tmp_path: Path, store: StoreSection) -> Engine:
    return Shop(tmp_path, store=store).engine()


def pages(engine: Engine, user_id: str) -> list[UserExport]:
    found = [engine.export(user_id)]
    while (after := found[-1].next) is not None:
        found.append(engine.export(user_id, after))
    return found


def test_an_export_has_decisions_interactions_and_what_was_learnt(engine: Engine) -> None:
    decision = rank(engine, request("ann", "e1", context={"device": "phone"}))
    rank(engine, request("bob", "e2"))
    observe(engine, did("i1", text="for my kitchen"), did("i2", "bob"), did("i3", item_id="item-9"))
    export = engine.export("ann")
    assert [one.decision for one in export.decisions] == [decision]
    assert export.decisions[0].decision.context == {"device": "phone"}
    assert [one.interaction.interaction_id for one in export.interactions] == ["i1", "i3"]
    assert export.interactions[0].interaction.text == "for my kitchen"
    assert export.profile == engine.user("ann")
    assert export.next is None


def test_what_the_encoder_made_of_a_context_is_told_too(
    tmp_path: Path, store: StoreSection
) -> None:
    engine = Shop(tmp_path, store=store, feedback="shown", preset="news").engine()
    rank(engine, request("ann", "e1", context="a rainy day"), **{"a rainy day": embeddings()[0]})
    (told,) = engine.export("ann").decisions
    assert told.context_vector == embeddings()[0].astype("<f2").tobytes()
    assert engine.export("ann").profile is None  # nothing was done yet


def test_a_long_export_comes_in_pages(engine: Engine) -> None:
    for number in range(3):
        engine.rank([request("ann", f"e{number}-{n}", k=1) for n in range(200)])
    observe(engine, *(did(f"i{n}", item_id=f"item-{n % 60}") for n in range(1100)))
    found = pages(engine, "ann")
    assert [len(page.interactions) for page in found] == [500, 500, 100]
    assert [len(page.decisions) for page in found] == [500, 100, 0]
    ids = [one.interaction.interaction_id for page in found for one in page.interactions]
    assert ids == [f"i{n}" for n in range(1100)]
    assert len({one.decision.event_id for page in found for one in page.decisions}) == 600
    assert [page.profile is None for page in found] == [False, True, True]


def test_nobody_and_nonsense_are_refused(engine: Engine) -> None:
    with pytest.raises(NotFound, match=re.escape("nothing is stored of user 'nobody'")):
        engine.export("nobody")
    for after in ("", "x", "-1.e", "1" * 30 + ".e"):
        with pytest.raises(InvalidInput, match=re.escape("after must be the next of a page")):
            engine.export("ann", after)


def test_after_an_erasure_there_is_nothing_to_export(engine: Engine) -> None:
    observe(engine, did("i1"))
    engine.erase("ann")
    with pytest.raises(NotFound, match=re.escape("nothing is stored of user 'ann'")):
        engine.export("ann")
