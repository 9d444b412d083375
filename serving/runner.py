"""Starts Ray and Serve, or attaches to them, deploys the applications and waits to be stopped."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import httpx
import ray
from msgspec import Struct
from ray import serve

from rove.config import Config
from rove.errors import ConfigError, RoveError, StoreUnavailable
from rove.release import latest
from serving import api
from serving.app import targets
from serving.gateway import APP_NAME as GATEWAY_APP
from serving.gateway import DEPLOYMENT_NAME as GATEWAY_DEPLOYMENT
from serving.handles import RemoteApp

_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
_OBJECT_STORE_BYTES = 150_000_000  # requests do not pass through it
_SYSTEM_CPUS = 1
_READY_S = 120.0
_POLL_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


class Served(Struct, frozen=True, kw_only=True):
    """Where the applications are."""

    url: str
    dashboard: str | None


def serve_until_stopped(config: Config, address: str | None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    try:
        with running(config, address, on_start=_interrupt_on_signals) as served:
            print(_banner(config, served), flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    return 0


@contextmanager
def running(
    config: Config, address: str | None = None, on_start: Callable[[], None] = lambda: None
) -> Iterator[Served]:
    """Run the applications, ready, for the time of the block; the value says where.

    `on_start` is called once Ray runs, which replaces the handlers of signals.
    """
    serving = config.serving
    latest(config.releases.path)  # say what is wrong with it before anything is started
    if address is None:
        dashboard = ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, _SYSTEM_CPUS + math.ceil(_cpus(config))),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.WARNING,
        ).dashboard_url
    else:
        dashboard = _attach(address)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    applications = targets(config)
    try:
        on_start()
        if address is not None:
            _check_cluster()
            check_nodes(config, _num_nodes())
        serve.start(http_options={"host": serving.host, "port": serving.port})
        try:
            serve.run_many(applications)
        except RuntimeError as error:
            raise _explained(error) from None
        url = f"http://{_EVERY_ADDRESS.get(serving.host, serving.host)}:{serving.port}"
        if address is None:
            wait_ready(url)
        yield Served(url=url, dashboard=dashboard)
    finally:
        if address is None:
            with contextlib.redirect_stdout(io.StringIO()):  # Ray prints its own end as a failure
                serve.shutdown()  # type: ignore[no-untyped-call]
                ray.shutdown(wait_for_processes=True)
        else:
            for application in applications:
                serve.delete(application.name, _blocking=False)
            ray.shutdown()


def wait_ready(url: str, timeout_s: float = _READY_S) -> None:
    """Return once the gateway answers at `url` and says that everything else does."""
    deadline = time.monotonic() + timeout_s
    last = "no answer"
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}{api.HEALTH.path}", timeout=timeout_s).raise_for_status()
            refusal: str | None = ray.get(_why_not_ready.remote(timeout_s))
            if refusal is None:
                return
            last = refusal
        except httpx.HTTPError as error:
            last = str(error)
        time.sleep(_POLL_S)
    raise StoreUnavailable(f"not ready after {timeout_s:g} s: {last}")


@ray.remote(num_cpus=0)
def _why_not_ready(timeout_s: float) -> str | None:
    """Ask the gateway by handle, which needs no API key but an event loop that ends with it."""
    try:
        asyncio.run(RemoteApp(GATEWAY_DEPLOYMENT, GATEWAY_APP, timeout_s).call("ready"))
    except RoveError as error:
        return str(error)
    return None


def _cpus(config: Config) -> float:
    serving = config.serving
    return (
        serving.shards * serving.shard_cpus
        + serving.gateway_replicas * serving.gateway_cpus
        + serving.encoder_replicas * serving.encoder_cpus
        + serving.learner_cpus
    )


def _attach(address: str) -> str | None:
    """Connect to a running cluster and return its dashboard's address."""
    try:
        context = ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"no Ray cluster at {address!r}: {reason}") from None
    url: str | None = context.dashboard_url
    return url


@ray.remote(num_cpus=0)
def _haproxy_mode() -> bool:
    return os.environ.get(_HAPROXY) == "1"


def _check_cluster() -> None:
    if not ray.get(_haproxy_mode.remote()):
        raise ConfigError(
            f"the cluster was started without {_HAPROXY}=1; start it with {_HAPROXY}=1 "
            "RAY_SERVE_THROUGHPUT_OPTIMIZED=1 in the environment of `ray start`"
        )


def _num_nodes() -> int:
    """Return how many of the cluster's nodes run applications."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in nodes)


def check_nodes(config: Config, num_nodes: int) -> None:
    """Refuse a store that only one of the cluster's nodes could reach."""
    if config.store.is_local and num_nodes > 1:
        raise ConfigError(
            f"store.url is {config.store.url}, a folder of one machine, and the cluster has "
            f"{num_nodes} nodes: shards would find other files wherever they start; "
            "set store.url to postgresql+psycopg://..."
        )


def _explained(error: RuntimeError) -> RoveError:
    """Return why an application could not be deployed, in one line."""
    for name, application in serve.status().applications.items():
        lines = [line.strip() for line in application.message.splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith("rove.errors.")] or lines[-1:]
        for deployment in application.deployments.values():
            lines = deployment.message.splitlines()
            reasons = [line for line in lines if line.startswith("rove.errors.")] or reasons
        if application.status == "DEPLOY_FAILED" and reasons:
            return RoveError(f"{name} cannot be deployed: {reasons[-1]}")
    return RoveError(f"cannot be deployed: {error}")


def _interrupt_on_signals() -> None:
    """Have the first SIGINT or SIGTERM raise `KeyboardInterrupt`, and ignore further ones."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, stop)


def _banner(config: Config, served: Served) -> str:
    lines = [
        f"{config.name} is served by {config.serving.shards} shards.",
        f"  API        {served.url}/v1/",
        f"  docs       {served.url}/docs",
    ]
    if served.dashboard:
        lines.append(f"  dashboard  http://{served.dashboard}")
    return "\n".join([*lines, "Stop with Ctrl-C."])
