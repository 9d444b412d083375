"""What the tests of both training commands share: a cluster, and commands that are ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import ray

from tests.commands import ROOT, Command


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local cluster with two CPUs, for a module."""
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def start() -> Iterator[Callable[..., Command]]:
    """Start commands in processes of their own, which end with the test."""
    started: list[Command] = []

    def begin(module: str, *arguments: str) -> Command:
        started.append(Command(module, *arguments))
        return started[-1]

    yield begin
    for command in started:
        command.kill()
