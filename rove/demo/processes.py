"""The commands of the demo as processes of their own, each writing to its log.

A command that fails becomes one `RoveError` with its last line and the path of its log.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from rove.config import Config
from rove.errors import ConfigError, RoveError

_READY_S = 180.0
_STOP_S = 60.0
_POLL_S = 0.1


def run(arguments: Sequence[str], log: Path) -> None:
    """Run `python -m ...` to its end."""
    with log.open("wb") as output:
        status = subprocess.run(_python(arguments), stdout=output, stderr=output).returncode
    if status != 0:
        raise _failed(arguments, status, log)


class Job:
    """`python -m ...` beside the demo, in a session of its own: what it starts ends with it."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._arguments, self._log = arguments, log
        self._start = time.perf_counter()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                _python(arguments), stdout=output, stderr=output, start_new_session=True
            )

    def wait(self) -> float:
        """Wait for its end; return its duration in seconds."""
        status = self._process.wait()
        if status != 0:
            raise _failed(self._arguments, status, self._log)
        return time.perf_counter() - self._start

    def stop(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def check_free(config: Config) -> None:
    """Raise `ConfigError` when something answers at the serving address."""
    host, port = _reachable(config.serving.host), config.serving.port
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return
    raise ConfigError(
        f"something listens at {host}:{port} already; stop it (a server of an earlier demo says "
        f"how in its output) or choose another port, as in serving.port={port + 1}"
    )


class Server:
    """`rove serve CONFIG` in a session of its own, so that Ctrl-C reaches only the demo."""

    def __init__(self, config: Config, path: Path, log: Path) -> None:
        host = _reachable(config.serving.host)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{config.serving.port}"
        self._arguments = ("rove", "serve", str(path))
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                _python(self._arguments), stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Return once every shard answers."""
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            status = self._process.poll()
            if status is not None:
                raise _failed(self._arguments, status, self._log)
            try:
                if httpx.get(f"{self.url}/readyz", timeout=_READY_S).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not there yet
            time.sleep(_POLL_S)
        raise RoveError(f"the server is not ready after {_READY_S:g} s; its log: {self._log}")

    def stop(self) -> None:
        """Stop the server, and what it started when it does not stop by itself."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _python(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _failed(arguments: Sequence[str], status: int, log: Path) -> RoveError:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "it said nothing")
    command = " ".join(arguments)
    return RoveError(f"`{command}` ended with status {status}: {last} (its log: {log})")
