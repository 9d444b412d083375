"""What each request gets and what is only kept: the policies of `rove.traffic` carried out.

    play(request)     what chooses its slots, and who is asked beside it
    decide(view, ...) the choices, those that decide together in one pass, then the others' opinions

`Agreement` counts how often a policy that is asked beside would have chosen the same; its state is
one row of the shard, written with the decisions that it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec import Struct, structs

from rove.config import PolicySection
from rove.deciding import Choice
from rove.errors import RoveError
from rove.events import RankRequest, Slot
from rove.ledger.ledger import Ledger, Transaction
from rove.opinions import Shown
from rove.records import Agreement, Beside
from rove.scores import TextVectors
from rove.shown.view import ShownView
from rove.traffic import Play, Policy
from rove.view import View

_STATE = "agreement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What one request gets, and what others would have chosen."""

    choice: Choice
    beside: list[Beside]


def decide(
    view: View | ShownView,
    plays: Sequence[Play],
    requests: Sequence[RankRequest],
    seeds: Sequence[int],
    vectors: TextVectors,
    strengths: Sequence[float] | None = None,
) -> list[Decided | RoveError]:
    """Return what each request gets, or what is wrong with it.

    `strengths`: of each request's exploring, for those that a regulated policy decides.
    """
    choices: list[Choice | RoveError | None] = [None] * len(requests)
    for section, rows in _by_section(plays).items():
        some, of_rows = [requests[row] for row in rows], [seeds[row] for row in rows]
        if section is None:
            found = view.given(some, of_rows, vectors)
        else:
            is_regulated = section.kind == "regulated" and strengths is not None
            strength = [strengths[row] for row in rows] if is_regulated and strengths else None
            found = view.decide(some, of_rows, vectors, strength, section)
        for row, choice in zip(rows, found, strict=True):
            choices[row] = choice
    beside: list[list[Beside]] = [[] for _ in requests]
    for policy in dict.fromkeys(one.name for play in plays for one in play.beside):
        _ask(view, policy, plays, requests, seeds, vectors, choices, beside)
    return [
        one if isinstance(one, RoveError) else Decided(choice=one, beside=asked)
        for one, asked in zip(choices, beside, strict=True)
        if one is not None
    ]


def _by_section(plays: Sequence[Play]) -> dict[PolicySection | None, list[int]]:
    if len({id(play.section) for play in plays}) == 1:  # nearly always
        return {plays[0].section: list(range(len(plays)))}
    rows_of: dict[PolicySection | None, list[int]] = {}
    for row, play in enumerate(plays):
        rows_of.setdefault(play.section, []).append(row)
    return rows_of


def _ask(
    view: View | ShownView,
    name: str,
    plays: Sequence[Play],
    requests: Sequence[RankRequest],
    seeds: Sequence[int],
    vectors: TextVectors,
    choices: Sequence[Choice | RoveError | None],
    beside: list[list[Beside]],
) -> None:
    """Add what one policy would have chosen where it is asked."""
    asked: list[tuple[int, Policy, Choice]] = []
    for row, (play, choice) in enumerate(zip(plays, choices, strict=True)):
        policy = next((one for one in play.beside if one.name == name), None)
        if policy is not None and isinstance(choice, Choice):
            asked.append((row, policy, choice))
    if not asked:
        return
    opinions = view.opinions(
        [structs.replace(requests[row], explain=False, alternatives=False) for row, _, _ in asked],
        [seeds[row] for row, _, _ in asked],
        vectors,
        asked[0][1].section,
        [Shown(slots=one.slots, is_given=plays[row].section is None) for row, _, one in asked],
    )
    for (row, policy, _), opinion in zip(asked, opinions, strict=True):
        if opinion is not None:
            mode: Literal["apprentice", "shadow"] = (
                "apprentice" if policy.mode == "apprentice" else "shadow"
            )
            beside[row].append(
                Beside(
                    policy=policy.name,
                    policy_version=policy.version,
                    mode=mode,
                    slots=opinion.slots,
                    shown=opinion.shown,
                )
            )


class _Counts(Struct, frozen=True):
    """Of one version of one policy on one shard."""

    version: str
    counts: Agreement


class Agreements:
    """How often policies that were asked beside agreed, on one shard."""

    def __init__(self, ledger: Ledger) -> None:
        text = ledger.state(_STATE)
        self._of: dict[str, _Counts] = {} if text is None else _read(text)

    def of(self, policy: Policy) -> Agreement:
        """Return what is counted of a policy's present version."""
        found = self._of.get(policy.name)
        return found.counts if found is not None and found.version == policy.version else NONE

    def prepare(
        self,
        transaction: Transaction,
        slots: Mapping[str, Sequence[Slot]],
        beside: Mapping[str, Sequence[Beside]],
    ) -> dict[str, _Counts]:
        """Write what decisions add; return what `commit` is to be called with after."""
        if not beside:
            return self._of
        counted = dict(self._of)
        for event_id, asked in beside.items():
            for one in asked:
                before = counted.get(one.policy)
                if before is None or before.version != one.policy_version:
                    before = _Counts(version=one.policy_version, counts=NONE)
                counts = added([before.counts, agreement_of(slots[event_id], one)])
                counted[one.policy] = _Counts(version=one.policy_version, counts=counts)
        transaction.put_state(_STATE, _encode(counted).decode())
        return counted

    def commit(self, counted: dict[str, _Counts]) -> None:
        """Count what was written."""
        self._of = counted


NONE = Agreement(num_decisions=0, num_slots=0, num_same_first=0, num_same_slots=0, expected_first=0)
_read = msgspec.json.Decoder(dict[str, _Counts]).decode
_encode = msgspec.json.Encoder().encode


def agreement_of(slots: Sequence[Slot], beside: Beside) -> Agreement:
    """Return how far a policy agrees with the slots that were shown."""
    would = [slot.item_id for slot in beside.slots[: len(slots)]]
    same = [slot.item_id == item_id for slot, item_id in zip(slots, would, strict=False)]
    return Agreement(
        num_decisions=1,
        num_slots=len(slots),
        num_same_first=int(same[0]) if same else 0,
        num_same_slots=sum(same),
        expected_first=beside.shown[0] if beside.shown else 0.0,
    )


def added(parts: Iterable[Agreement]) -> Agreement:
    """Return what counts of disjoint decisions come to together."""
    total = {name: 0 for name in Agreement.__struct_fields__}
    for part in parts:
        for name in total:
            total[name] += getattr(part, name)
    return msgspec.convert(total, Agreement)
