"""Who gets which policy: shares, stickiness, least movement, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rove.config import Config, PolicyFile, PolicySection
from rove.errors import ConfigError, Conflict, InvalidInput, NotFound
from rove.policy_store import MOST_CHANGES, PolicyStore
from rove.records import Agreement
from rove.traffic import Mode, Policy, Traffic, deal
from tests.worlds import Shop, request

USERS = [f"user-{number}" for number in range(20_000)]
NONE = Agreement(num_decisions=0, num_slots=0, num_same_first=0, num_same_slots=0, expected_first=0)


def policy(name: str, share: float = 0.0, mode: Mode = "online") -> Policy:
    return Policy(name=name, version="1", section=PolicySection(), mode=mode, share=share)


def traffic(*others: Policy, experiment: str = "e") -> Traffic:
    return Traffic([policy("shop"), *others], "shop", experiment)


def dealt(shares: dict[str, float], key: bytes = b"e") -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    return np.array([deal(user, shares, key) for user in USERS])


def test_shares_are_met() -> None:
    """Within four standard errors of 20,000 users; the default gets the rest."""
    names = dealt({"a": 0.1, "b": 0.25, "rest": 0.65})
    for name, share in (("a", 0.1), ("b", 0.25), ("rest", 0.65)):
        assert (names == name).mean() == pytest.approx(share, abs=4 * (share / 2e4) ** 0.5)


def test_a_user_stays_whatever_else_is_there() -> None:
    """Names of other order, the same shares: the same dealing; none for a share of zero."""
    one = dealt({"a": 0.3, "b": 0.2, "rest": 0.5})
    assert (dealt({"rest": 0.5, "b": 0.2, "none": 0.0, "a": 0.3}) == one).all()


@pytest.mark.parametrize(
    "after",
    [
        {"a": 0.2, "b": 0.3, "rest": 0.5},
        {"a": 0.1, "b": 0.1, "rest": 0.8},
        {"a": 0.0, "b": 0.3, "rest": 0.7},
        {"a": 0.3, "b": 0.0, "rest": 0.7},
    ],
)
def test_changed_shares_move_few_users_and_only_towards_what_grew(after: dict[str, float]) -> None:
    """At most 2 d / (1 + d) of them, where d have to; from p to q only if q grew more than p."""
    before = {"a": 0.1, "b": 0.3, "rest": 0.6}
    first, second = dealt(before), dealt(after)
    moved = first != second
    d = sum(abs(after[name] - before[name]) for name in before) / 2.0
    assert d - 0.01 < moved.mean() < 2 * d / (1 + d) + 0.01
    for source, target in set(zip(first[moved], second[moved], strict=True)):
        assert after[target] / before[target] > after[source] / before[source]


def test_two_policies_move_exactly_what_has_to() -> None:
    """A share from 0.1 to 0.4: who had it keeps it, and 0.3 of the users come to it."""
    first, second = dealt({"a": 0.1, "rest": 0.9}), dealt({"a": 0.4, "rest": 0.6})
    assert (second[first == "a"] == "a").all()
    assert (first != second).mean() == pytest.approx(0.3, abs=0.015)


def test_another_experiment_deals_independently() -> None:
    first = dealt({"a": 0.5, "rest": 0.5}, b"one") == "a"
    second = dealt({"a": 0.5, "rest": 0.5}, b"two") == "a"
    assert (first & second).mean() == pytest.approx(0.25, abs=0.015)


def test_a_shadow_is_asked_for_its_share_of_the_users_of_each_policy() -> None:
    some = traffic(policy("a", 0.5), policy("s", 0.2, "shadow"))
    plays = [some.play(request(user)) for user in USERS[:5000]]
    asked = np.array([bool(play.beside) for play in plays])
    of_a = np.array([play.name == "a" for play in plays])
    assert asked.mean() == pytest.approx(0.2, abs=0.025)
    assert asked[of_a].mean() == pytest.approx(0.2, abs=0.035)
    assert {play.name for play in plays} == {"a", "shop"}


def test_without_others_the_default_decides() -> None:
    play = traffic().play(request("ann"))
    assert (play.name, play.version, play.beside) == ("shop", "1", ())


def test_a_request_may_name_its_policy() -> None:
    some = traffic(policy("a"), policy("s", 1.0, "shadow"))
    assert some.play(request("ann", policy="a")).name == "a"
    assert [one.name for one in some.play(request("ann", policy="a")).beside] == ["s"]
    with pytest.raises(NotFound, match=re.escape("no policy 'b'; there are a, s, shop")):
        some.play(request("ann", policy="b"))
    with pytest.raises(
        InvalidInput, match=re.escape("policy s is a shadow, which decides nothing")
    ):
        some.play(request("ann", policy="s"))


def test_the_default_cannot_be_a_shadow_and_shares_cannot_exceed_one() -> None:
    with pytest.raises(Conflict, match=re.escape("shop is the default, which has to decide")):
        Traffic([policy("shop", mode="shadow")], "shop", "e")
    with pytest.raises(Conflict, match=re.escape("shares sum to 1.1, more than 1: a 0.6, b 0.5")):
        traffic(policy("a", 0.6), policy("b", 0.5))
    shared = traffic(policy("a", 0.7), policy("b", 0.3), policy("s", 1.0, "shadow"))
    assert shared.share_of("shop") == 0.0 and shared.share_of("s") == 1.0


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return opened(Shop(tmp_path))


def opened(shop: Shop) -> PolicyStore:
    return PolicyStore(shop.config(), shop.catalogue())


def file(mode: str = "online", share: float | None = None, **policy: object) -> PolicyFile:
    return PolicyFile.model_validate({"policy": policy, "mode": mode, "share": share})


def summary(store: PolicyStore) -> dict[str, tuple[str, str, float, bool]]:
    return {
        one.name: (one.version, one.mode, one.share, one.default)
        for one in store.states(lambda policy: NONE)
    }


def test_what_is_put_is_there_for_all_and_after_a_restart(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    one, other = opened(shop), opened(shop)
    configured = one.traffic.default.version
    one.put("a", file(share=0.2, kind="greedy"), 1.0)
    assert summary(other) == {"shop": (configured, "online", 1.0, True)}
    assert other.follow() and not other.follow()
    assert summary(other)["a"] == ("1", "online", 0.2, False)
    assert summary(other)["shop"] == (configured, "online", 0.8, True)
    assert other.traffic.find("a").section.kind == "greedy"
    assert summary(opened(shop)) == summary(one) == summary(other)


def test_each_put_is_a_version_and_roll_backs_take_it_back(store: PolicyStore) -> None:
    for strength in (0.1, 0.2, 0.3):
        store.put("a", file(strength=strength), strength)
    assert summary(store)["a"][0] == "3"
    store.roll_back("a")
    assert summary(store)["a"][0] == "2" and store.traffic.find("a").section.strength == 0.2
    store.put("a", file(strength=0.4), 4.0)
    assert summary(store)["a"][0] == "4"
    store.roll_back("a")
    store.roll_back("a")
    assert store.traffic.find("a").section.strength == 0.1
    with pytest.raises(Conflict, match=re.escape("policy a has no earlier change to go back to")):
        store.roll_back("a")


def test_a_promotion_makes_the_default_and_can_be_taken_back(store: PolicyStore) -> None:
    configured = store.traffic.default.version
    store.put("a", file("shadow"), 1.0)
    store.promote("a", 2.0)
    assert summary(store) == {
        "a": ("1", "online", 1.0, True),
        "shop": (configured, "online", 0.0, False),
    }
    store.promote("a", 3.0)
    store.roll_back("a")
    assert summary(store)["a"] == ("1", "shadow", 1.0, False)
    assert summary(store)["shop"] == (configured, "online", 1.0, True)


def test_the_configured_policy_can_be_put_and_comes_back(store: PolicyStore) -> None:
    configured = store.traffic.default
    store.put("shop", file("logging_only", kind="greedy"), 1.0)
    assert summary(store) == {"shop": ("1", "logging_only", 1.0, True)}
    store.roll_back("shop")
    assert store.traffic.default == configured
    with pytest.raises(Conflict, match=re.escape("policy shop is as it was configured")):
        store.roll_back("shop")
    store.put("a", file(), 2.0)
    store.promote("a", 3.0)
    store.promote("shop", 4.0)
    assert store.traffic.default == configured


def test_what_cannot_be_is_refused_and_changes_nothing(store: PolicyStore) -> None:
    store.put("a", file(share=0.7), 1.0)
    before = store.document
    with pytest.raises(Conflict, match=re.escape("the shares sum to 1.1, more than 1")):
        store.put("b", file(share=0.4), 2.0)
    with pytest.raises(InvalidInput, match=re.escape("policy shop is the default")):
        store.put("shop", file(share=0.1), 2.0)
    with pytest.raises(Conflict, match=re.escape("shop is the default, which has to decide")):
        store.put("shop", file("shadow"), 2.0)
    with pytest.raises(InvalidInput, match=re.escape("only the configuration's policy can be one")):
        store.put("b", file(kind="regulated"), 2.0)
    with pytest.raises(NotFound, match=re.escape("there is no policy 'b'; there are a, shop")):
        store.promote("b", 2.0)
    with pytest.raises(NotFound, match=re.escape("there is no policy 'b'; there are a, shop")):
        store.roll_back("b")
    for name in ("baseline", "a b", "", "x" * 65, "../a", "a:promote"):
        with pytest.raises(InvalidInput, match=re.escape("a policy's name has 1 to 64 letters")):
            store.put(name, file(), 2.0)
    store.follow()
    assert store.document == before


def test_a_roll_back_that_leaves_a_shadow_to_decide_is_refused(store: PolicyStore) -> None:
    """a is promoted, then b; a is taken back to its shadow; b cannot give back to it."""
    store.put("a", file("shadow"), 1.0)
    store.promote("a", 2.0)
    store.put("b", file(), 3.0)
    store.promote("b", 4.0)
    store.roll_back("a")
    with pytest.raises(Conflict, match=re.escape("a is the default, which has to decide")):
        store.roll_back("b")
    store.promote("shop", 5.0)
    assert summary(store)["shop"][3]


def test_old_changes_are_forgotten(store: PolicyStore) -> None:
    for number in range(MOST_CHANGES + 10):
        store.put("a", file(strength=number / 100), float(number))
    known = store.document.policies["a"]
    assert len(known.changes) == len(known.versions) == MOST_CHANGES
    assert summary(store)["a"][0] == str(MOST_CHANGES + 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy: {kind: greedier}", "policy.kind: Input should be"),
        ("policy: {strenght: 1}", "policy.strenght: unknown key; did you mean strength?"),
        ("kind: greedy", "policy: missing; add it; kind: unknown key"),
        ("- a", "expected keys and values, got ['a']"),
        ("policy: {", "neither JSON nor YAML"),
        ("policy: &a {kind: greedy}\nmode: *a", "aliases (*name) are not read; write it out"),
        ("policy: {}\nshare: 1.5", "share: Input should be less than or equal to 1, got 1.5"),
        ("policy: {}\nmode: offline", "mode: Input should be 'online', 'apprentice'"),
    ],
)
def test_an_unusable_policy_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        PolicyFile.parse(text)


def test_a_policy_file_is_the_section_of_the_configuration() -> None:
    config = Config.parse({"name": "a", "policy": {"kind": "softmax", "temperature": 0.1}})
    for text in (
        '{"policy": {"kind": "softmax", "temperature": 1e-1}}',
        "policy:\n  kind: softmax\n  temperature: 0.1\n",
    ):
        assert PolicyFile.parse(text).policy == config.policy
