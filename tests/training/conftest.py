"""What the tests of training share: a cluster, and commands that are ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import ray

from tests.commands import OFTEN, ROOT, Command


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local cluster with four CPUs, as Ray counts them, for a module."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {**OFTEN, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}},
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
