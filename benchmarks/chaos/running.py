"""Prepare, serve, load, kill, ask, end, check."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from benchmarks.chaos.checking import Findings, check
from benchmarks.chaos.kills import Kill, Killer
from benchmarks.chaos.load import Acknowledged, Load
from benchmarks.chaos.preparing import World, prepared
from rove.client import AsyncRoveClient
from rove.records import UserProfile
from serving.runner import running

_CAPACITY_S = 5.0
_NUM_USERS = 1000
_AT_ONCE = 16


class Report(Struct, frozen=True, kw_only=True):
    """What the page says."""

    store: str
    num_shards: int
    num_gateways: int
    duration_s: float
    capacity: float
    """Calls a second of 64 callers that do not wait between calls."""
    rate: float
    """Calls a second while processes were killed."""
    heard: Acknowledged
    kills: list[Kill]
    findings: Findings


def run(
    path: str,
    overrides: Sequence[str],
    *,
    on_postgres: bool,
    duration_s: float,
    every_s: float,
    seed: int,
) -> Report:
    """Return what came of it."""
    with prepared(path, overrides, on_postgres) as world:
        with running(world.config, on_start=_end_in_order) as served:
            seen = asyncio.run(_chaos(world, served.url, duration_s, every_s, seed))
        findings = check(world.config, seen.heard, seen.profiles)
    return Report(
        store="PostgreSQL" if on_postgres else "SQLite",
        num_shards=world.config.serving.shards,
        num_gateways=world.config.serving.gateway_replicas,
        duration_s=duration_s,
        capacity=seen.capacity,
        rate=seen.rate,
        heard=seen.heard,
        kills=seen.kills,
        findings=findings,
    )


def _end_in_order() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class _Seen(Struct, frozen=True, kw_only=True):
    capacity: float
    rate: float
    heard: Acknowledged
    kills: list[Kill]
    profiles: dict[str, UserProfile]


async def _chaos(world: World, url: str, duration_s: float, every_s: float, seed: int) -> _Seen:
    load = Load(url, world.users, world.items, seed)
    await load.run(_CAPACITY_S / 5, None)  # connections, caches
    capacity = await load.run(_CAPACITY_S, None)
    calm = load.heard.num_calls, load.heard.num_retried
    killer = Killer(world, load, url, seed)
    rate, _ = await asyncio.gather(
        load.run(duration_s, capacity / 2), killer.run(duration_s, every_s)
    )
    load.heard.num_calls -= calm[0]
    load.heard.num_retried -= calm[1]
    await load.close()
    await asyncio.sleep(2 * world.config.serving.sync_interval_s)
    profiles = await _profiles(url, load.heard, seed)
    return _Seen(
        capacity=capacity, rate=rate, heard=load.heard, kills=killer.kills, profiles=profiles
    )


async def _profiles(url: str, heard: Acknowledged, seed: int) -> dict[str, UserProfile]:
    """Return what is served of some of the users who did something."""
    active = sorted(set(heard.events.values()))
    chosen = np.random.default_rng([seed, 3]).permutation(active)[:_NUM_USERS].tolist()
    found: dict[str, UserProfile] = {}
    async with AsyncRoveClient(url, timeout_s=60.0) as client:

        async def ask(users: Sequence[str]) -> None:
            for user in users:
                found[user] = await client.user(user)

        await asyncio.gather(*(ask(chosen[start::_AT_ONCE]) for start in range(_AT_ONCE)))
    return found
