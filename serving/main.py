"""`rove serve CONFIG`: check what can be checked, set Ray's environment, then import Ray."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Sequence

from rove.config import Config
from rove.errors import ConfigError

# Read by every Ray process when it starts, so they must be set before Ray is imported. On a
# cluster that runs already, `ray start` needs the first two (see cluster/serve.yaml).
_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # else 1000 warnings wait for each other
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",  # of a client that sends nothing; by default 3600
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # nothing else routes to a local Serve
    "RAY_AUTH_MODE": "token",  # only who has the token of ~/.ray/auth_token may use the cluster
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",  # messages come at once or, when Ray stops, not at all
    "RAY_worker_niceness": "0",  # by default replicas give way (15) to everything else on the CPU
}
# Fixed by default. A server that is still starting sends its requests to the fallback port, and if
# that belongs to another server on the machine, they reach the wrong one and look answered.
_FREE_PORTS = (
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
)


def run(path: str, overrides: Sequence[str], address: str | None) -> int:
    """Serve until interrupted; return the exit status."""
    config = Config.load(path, overrides)
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is None:
        check_port(config.serving.host, config.serving.port)
        prepare_environment()
    status: int = importlib.import_module("serving.runner").serve_until_stopped(config, address)
    return status


def prepare_environment() -> None:
    """Set what a local Ray needs to serve in HAProxy mode; what is set already stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _FREE_PORTS:
        os.environ.setdefault(name, str(free_port()))


def check_port(host: str, port: int) -> None:
    """Raise `ConfigError` when something listens at the address.

    HAProxy shares its ports (SO_REUSEPORT), so it would not notice.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"serving.port: cannot listen at {host}:{port} ({error.strerror}); stop what "
                f"listens there (`ss -ltnp` names it; a server that was killed leaves its haproxy "
                f"behind) or choose another, as in serving.port={free_port()}"
            ) from None


def free_port() -> int:
    """Return a port that nothing listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
