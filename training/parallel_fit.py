"""The fit's work on users (`rove.user_blocks`), spread over processes by Ray.

- A block belongs to one process and is put into the object store once; the items' features once a
  sweep. What comes back is read in the order of the blocks, so the number of processes changes no
  bit of the result.
- A process that dies is started again by Ray and its tasks are done again: they have no state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from threadpoolctl import threadpool_limits

from rove.errors import ConfigError
from rove.user_blocks import Block, Spread, Sums, Taste, Work, here, sums_of
from training import cluster

_AHEAD = 2
"""Blocks under way per process: one that is worked on, one that waits."""
_MAX_RESTARTS = 3


class _Worker:
    """One process; what it computes is single-threaded."""

    def __init__(self) -> None:
        self._limits = threadpool_limits(1, user_api="blas")

    def sums_of(self, block: Block, taste: Taste) -> Sums:
        return sums_of(block, taste)

    def pid(self) -> int:
        return os.getpid()


class Pool:
    """`num_workers` processes of the connected cluster, one CPU each."""

    def __init__(self, num_workers: int) -> None:
        worker = ray.remote(num_cpus=1, max_restarts=_MAX_RESTARTS, max_task_retries=_MAX_RESTARTS)(
            _Worker
        )
        self._workers: list[Any] = [worker.remote() for _ in range(num_workers)]

    def spread(self, blocks: Sequence[Block]) -> Work:
        """Hand out the blocks in turn; for `rove.learning.learn`."""
        places = [ray.put(block) for block in blocks]

        def work(taste: Taste) -> Iterable[Sums]:
            return self._work(places, ray.put(taste))

        return work

    def pids(self) -> list[int]:
        """Return the processes' ids."""
        pids: list[int] = ray.get([worker.pid.remote() for worker in self._workers])
        return pids

    def stop(self) -> None:
        """End the processes."""
        for worker in self._workers:
            ray.kill(worker)

    def _work(self, places: Sequence[Any], taste: Any) -> Iterator[Sums]:
        num_workers, under_way = len(self._workers), list[Any]()
        for number in range(len(places)):
            while len(under_way) < len(places) and len(under_way) < number + _AHEAD * num_workers:
                worker = self._workers[len(under_way) % num_workers]
                under_way.append(worker.sums_of.remote(places[len(under_way)], taste))
            result, under_way[number] = under_way[number], None  # the store may then forget it
            try:
                yield ray.get(result)
            except RayError as error:
                raise cluster.plain(error) from None


@contextmanager
def spread_over(num_workers: int) -> Iterator[Spread]:
    """Give what `learn` takes: this process for one worker, else so many of Ray's."""
    if num_workers == 1:
        yield here
        return
    with cluster.connected():
        _check_size(num_workers)
        pool = Pool(num_workers)
        try:
            yield pool.spread
        finally:
            pool.stop()


def _check_size(num_workers: int) -> None:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_cpus = resources.get("CPU", 0.0)
    if num_workers > num_cpus:
        raise ConfigError(
            f"training.num_workers is {num_workers}, but the cluster has {num_cpus:g} CPUs; "
            "lower it, or start more nodes"
        )
