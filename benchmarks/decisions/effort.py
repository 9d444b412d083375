"""Where a peer's runs take minutes: how much of a development run tunes it, how many seeds count.

Every peer has at most six settings and the same development seeds. All but those named here are
tuned on whole runs and reported on all seeds; these are tuned on the first part of the same runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.decisions.interface import World
from benchmarks.decisions.peers.linear_disjoint import width

LONG = 1_000_000
"""Requests of a run that Vowpal Wabbit and the disjoint peers play in half a minute."""
MANY = 10_000
"""Requests of a run with 50 to 100 candidates that Vowpal Wabbit plays in 5 to 10 seconds."""
MUCH_WORK = 2e8
"""Requests x items x D^2 of a run that takes MABWiser ten seconds and more, for D features of a
request; 200 stands for what a prediction takes apart from the matrices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a peer's runs are cut to."""

    tuning_part: float = 1.0
    """Of a development run's requests."""
    max_seeds: int | None = None
    """Reported seeds, where it is less than all."""


def effort(peer: str, world: World) -> Effort:
    """Return what a peer is given in a world."""
    if peer.startswith("vw-") and world.num_requests > LONG:
        return Effort(tuning_part=1 / 10, max_seeds=5)
    if peer.startswith("vw-") and world.num_requests > MANY:
        return Effort(tuning_part=1 / 3)
    if peer.endswith("-disjoint") and world.num_requests > LONG:
        return Effort(tuning_part=1 / 8)
    work = float(world.num_requests) * world.num_items * max(width(world) ** 2, 200)
    if peer.startswith("mabwiser-") and work > MUCH_WORK:
        return Effort(tuning_part=1 / 4)
    return Effort()
