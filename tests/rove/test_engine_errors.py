"""The engine when things are wrong: bad requests and events, full disks, killed processes."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rove
from rove.engine import MAX_CLOCK_SKEW_S, Engine
from rove.errors import Conflict, InvalidInput, NotFound
from rove.events import Candidates, Decision, Interaction, InteractionType, RankRequest
from tests.worlds import (
    NUM_ITEMS,
    Shop,
    did,
    observe,
    outcome_of,
    rank,
    refusal,
    request,
    shares,
    taste,
    view_of,
)

ROOT = Path(rove.__file__).parents[1]
HIDE, REWARD = InteractionType.HIDE, InteractionType.REWARD


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def engine(shop: Shop) -> Engine:
    return shop.engine()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (request(k=0), "k must be at least 1, got 0"),
        (request(k=61), "k = 61, but only 60 candidates are left after exclusions"),
        (request(category="unknown", k=1), "k = 1, but only 0 candidates are left"),
        (request(item_ids=[], k=1), "k = 1, but only 0 candidates are left"),
        (request(item_ids=["item-1", "no", "no2"]), "2 of 3 items are not in the catalogue: 'no'"),
        (request(k=61, baseline_items=["none"]), "1 of 1 items are not in the catalogue: 'none'"),
        (request(query="no vector"), "candidates.query needs the encoder's vector of its text"),
        (
            RankRequest(user_id="ann", candidates=Candidates()),
            "candidates needs exactly one of item_ids, category and query",
        ),
        (request("", k=1), "user_id must have 1 to 256 characters, got 0"),
        (request("a\nb"), "user_id must not contain control or unassigned characters"),
        (request("ann", "\ud800"), "event_id must not contain control or unassigned characters"),
        (request(context="\ud800"), "a text of the request is not valid Unicode"),
        (request(excluded_items=["\ud800"]), "a text of the request is not valid Unicode"),
    ],
)
def test_a_wrong_request_is_refused_and_its_neighbours_are_served(
    engine: Engine, wanted: RankRequest, message: str
) -> None:
    before, error, after = engine.rank([request("bob"), wanted, request("eve", "e9")])
    assert isinstance(before, Decision) and isinstance(after, Decision)
    assert isinstance(error, InvalidInput)
    assert re.search(re.escape(message), str(error)), error
    assert engine.decision("e9").decision == after


def test_another_policy_is_not_found(engine: Engine) -> None:
    error = refusal(engine, request(policy="wild"))
    assert isinstance(error, NotFound)
    assert str(error) == "there is no policy 'wild'; there are shop"
    assert rank(engine, request(policy="shop")).policy == "shop"


def test_one_id_for_two_requests_is_a_conflict(shop: Shop, engine: Engine) -> None:
    first, second = engine.rank([request("ann", "e1"), request("ann", "e1", k=2)])
    assert isinstance(first, Decision) and isinstance(second, Conflict)
    assert "event_id 'e1' was used before for another request; use a new id" in str(second)
    engine.close()
    assert isinstance(refusal(shop.engine(), request("bob", "e1")), Conflict)


def test_an_id_whose_first_request_was_wrong_can_be_used_again(engine: Engine) -> None:
    wrong, right = request("ann", "e1", item_ids=["no"]), request("ann", "e1")
    first, second = engine.rank([wrong, right])
    assert isinstance(first, InvalidInput) and isinstance(second, InvalidInput)
    assert "event_id 'e1' was used twice, first wrongly" in str(second)
    assert rank(engine, right).event_id == "e1"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"value": math.nan}, "value must be a finite number, got nan"),
        ({"value": math.inf}, "value must be a finite number, got inf"),
        ({"timestamp": math.nan}, "timestamp must be a finite number, got nan"),
        ({"timestamp": -math.inf}, "timestamp must be a finite number, got -inf"),
        ({"duration_s": math.nan}, "duration_s must be a finite number, got nan"),
        ({"duration_s": -2.0}, "duration_s must be at least 0, got -2.0"),
        ({"watch_ratio": -0.1}, "watch_ratio must be at least 0, got -0.1"),
        ({"kind": REWARD, "value": 1e7}, "a reward must be between -1e+06 and 1e+06, got 1000"),
        ({"timestamp": 1e12}, "is more than a day in the future; give unix seconds (UTC)"),
        ({"item_id": "item-99"}, "item 'item-99' is not in the catalogue; add it with PUT"),
        ({"user_id": "a\x00b"}, "user_id must not contain control or unassigned characters"),
        ({"item_id": ""}, "item_id must have 1 to 256 characters, got 0"),
        ({"text": "a\x00b"}, "text must not contain NUL characters; leave them out"),
        ({"text": "\ud800"}, "text must be valid Unicode, got a lone surrogate at character 0"),
    ],
)
def test_a_wrong_event_is_rejected_and_its_neighbours_are_stored(
    engine: Engine, fields: dict[str, Any], reason: str
) -> None:
    wrong = did("i1", **fields)
    assert observe(engine, did("i0"), wrong, did("i2")) == ["accepted", "rejected", "accepted"]
    outcome = outcome_of(engine, wrong)
    assert outcome.reason is not None and re.search(re.escape(reason), outcome.reason)
    assert engine.user("ann").num_interactions == 2
    assert np.isfinite(shares(engine)).all() and np.isfinite(taste(engine)).all()


def test_a_little_of_the_future_is_clock_skew(shop: Shop, engine: Engine) -> None:
    limit = shop.clock.now + MAX_CLOCK_SKEW_S
    assert observe(engine, did("i1", timestamp=limit)) == ["accepted"]
    assert observe(engine, did("i2", timestamp=limit + 1)) == ["rejected"]
    assert view_of(engine).now_s == shop.clock.now  # it counts as of now


def test_a_rejected_event_may_come_again_once_it_is_right(engine: Engine) -> None:
    statuses = observe(engine, did("i1", item_id="item-99"), did("i1"), did("i1"))
    assert statuses == ["rejected", "accepted", "duplicate"]


@pytest.mark.parametrize("kind", [InteractionType.PURCHASE, HIDE])
def test_events_of_another_age_do_not_upset_a_user(engine: Engine, kind: InteractionType) -> None:
    old = [did(f"i{n}", kind=kind, timestamp=t) for n, t in enumerate((0.0, -1e12, -1e300))]
    assert observe(engine, did("i9", item_id="item-8"), *old) == ["accepted"] * 4
    assert all(math.isfinite(slot.score) for slot in rank(engine, request(k=60)).slots)


def test_the_largest_rewards_leave_all_scores_finite(engine: Engine) -> None:
    events = [did(f"i{n}", kind=REWARD, value=(-1.0) ** n * 1e6) for n in range(6)]
    assert observe(engine, *events) == ["accepted"] * 6
    for user_id in ("ann", "bob"):
        decision = rank(engine, request(user_id, k=60, explain=True))
        assert all(math.isfinite(slot.score) for slot in decision.slots)


@pytest.mark.parametrize("missing", ["decision", "activate", "user", "item"])
def test_what_is_not_there_is_not_found(engine: Engine, missing: str) -> None:
    with pytest.raises(NotFound, match=re.escape("'nothing'")):
        getattr(engine, missing)("nothing")


def test_an_unusable_id_cannot_be_erased(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match=re.escape("user_id must have 1 to 256 characters")):
        engine.erase("")


def test_nothing_at_all_is_no_problem(engine: Engine) -> None:
    assert engine.rank([]) == [] and engine.observe([]) == []


def test_an_empty_catalogue_refuses_until_something_is_in_it(shop: Shop, engine: Engine) -> None:
    store = shop.catalogue()
    store.delete([f"item-{number}" for number in range(NUM_ITEMS)])
    engine.sync()
    assert engine.num_items == 0
    assert "only 0 candidates are left" in str(refusal(engine, request(k=1)))
    assert "not in the catalogue" in str(refusal(engine, request(k=1, baseline_items=["item-1"])))
    assert observe(engine, did("i1")) == ["rejected"]


def test_without_a_release_the_command_is_named(shop: Shop) -> None:
    with pytest.raises(NotFound, match=re.escape("run python -m training.factorise CONFIG")):
        Engine.open(shop.config())
    shop.engine().close()


def test_a_damaged_release_leaves_the_old_one_in_service(
    shop: Shop, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    old = engine.release_id
    new = shop.release()
    (shop.folder / "releases" / new / "model.safetensors").write_bytes(b"")
    engine.sync()
    assert engine.release_id == old and rank(engine, request()).release == old
    assert f"release {old} stays in service" in caplog.text


def test_a_full_cache_learns_from_each_event_once(shop: Shop) -> None:
    """The cache holds two small views: learning of bob's purchases pushes ann's out."""
    engine = shop.engine(user_cache_mb=0.0023)
    rank(engine, request("ann"))
    rank(engine, request("bob"))
    bought = [did(f"b{n}", "bob", f"item-{n}") for n in range(4)]
    observe(engine, *bought, did("a1", "ann", kind=HIDE), did("b9", "bob", "item-9"))
    assert len(view_of(engine).users.get("ann").trials) == 1
    before = taste(engine)
    engine.close()
    assert taste(shop.engine()) == pytest.approx(before, abs=1e-9)


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from rove.errors import StoreUnavailable
from tests.worlds import Shop, did, observe, rank, request, shares, taste

shop = Shop(Path(sys.argv[1]))
engine = shop.engine()
observe(engine, did("first"))
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
number = 0
while True:
    before = shares(engine), taste(engine), engine.view.now_s
    shop.clock.now += 1000.0
    try:
        observe(engine, *(did(f"{number}-{n}", text="x" * 5000) for n in range(4)))
    except StoreUnavailable as error:
        print("refused", error.fields["reason"])
        break
    number += 1
after = shares(engine), taste(engine), engine.view.now_s
assert all(np.array_equal(x, y) for x, y in zip(before, after))
assert engine.user("ann").num_interactions == 4 * number + 1 > 5
for call in (lambda: rank(engine, request("ann", "e1", context="x" * 50_000)),
             lambda: engine.erase("ann")):
    try:
        call()
    except StoreUnavailable as error:
        print("refused", error.fields["reason"])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert observe(engine, did(f"{number}-0")) == ["accepted"]
served = shares(engine), taste(engine)
engine.close()
engine = shop.engine()
rebuilt = shares(engine), taste(engine)
assert all(np.allclose(x, y, atol=1e-9, rtol=0) for x, y in zip(served, rebuilt))
assert engine.rank([request("ann", "e1", k=2)])[0].event_id == "e1"
print("recovered")
"""


def test_a_full_disk_changes_no_view(tmp_path: Path) -> None:
    """Files of at most 600 kB, until the limit is lifted: what was not stored was not learnt."""
    finished = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].startswith("refused SQLITE_") and lines[-1] == "recovered"
    assert len(lines) >= 3


KILLED = """
import itertools, json, sys
from pathlib import Path
from tests.worlds import Shop, observe, taste
from tests.rove.test_engine_errors import nth

shop = Shop(Path(sys.argv[1]))
engine = shop.engine()
print("ready", flush=True)
for number in itertools.count():
    observe(engine, *nth(number))
    print(json.dumps(taste(engine).tolist()), flush=True)
"""


def nth(number: int) -> list[Interaction]:
    """Return the three interactions of a numbered call: ann's, bob's and a hide of ann's."""
    return [
        did(f"{number}-0", "ann", f"item-{number % 50}", timestamp=1.7e9 + 977.0 * number),
        did(f"{number}-1", "bob", "item-7", timestamp=1.7e9 + 977.0 * number),
        did(f"{number}-2", "ann", f"item-{number % 7}", HIDE, 1.7e9 + 977.0 * number + 5),
    ]


@pytest.mark.parametrize("num_calls", [1, 60])
def test_what_a_killed_engine_acknowledged_is_there_once(tmp_path: Path, num_calls: int) -> None:
    """Of a call all three interactions or none are there; the posterior is the one served."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "killed"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(num_calls + 1)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()
    served = [line for line in lines[1:] if line.strip().endswith("]")]

    engine = Shop(tmp_path / "killed").engine()
    assert engine.user("bob").num_interactions in (len(served), len(served) + 1)
    num_stored = engine.user("bob").num_interactions
    assert engine.user("ann").num_interactions == 2 * num_stored
    for number in range(len(served)):
        assert observe(engine, *nth(number)) == ["duplicate"] * 3

    again = Shop(tmp_path / "again").engine()
    for number in range(num_stored):
        observe(again, *nth(number))
        if number == len(served) - 1:
            assert taste(again) == pytest.approx(json.loads(served[-1]), abs=1e-6)
    assert taste(engine) == pytest.approx(taste(again), abs=1e-6)
    assert shares(engine) == pytest.approx(shares(again), abs=1e-6)
