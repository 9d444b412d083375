"""A training command in a process of its own, watched, and killed in part or whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMAND_S = 150.0


class Command:
    """`python -m MODULE ARGUMENTS`, with a mark by which its workers are known."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._mark = f"ROVE_TEST_MARK={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, name: value, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def wait(self) -> tuple[int, str]:
        """Return the status and everything that was printed."""
        output, _ = self.process.communicate(timeout=COMMAND_S)
        return self.process.returncode, output

    def until(self, is_so: Callable[[], bool]) -> None:
        """Return once it is so; the command must still run."""
        deadline = time.monotonic() + COMMAND_S
        while not is_so():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the command if it still runs, and wait for its workers, which end by themselves."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
        deadline = time.monotonic() + COMMAND_S
        while self._workers():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def kill_worker(self) -> None:
        """Kill the only process that trains."""
        (worker,) = self._workers()
        os.kill(worker, signal.SIGKILL)

    def _workers(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_worker = b"RayTrainWorker" in (folder / "cmdline").read_bytes()
                if is_worker and self._mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                pass  # ended meanwhile
        return found
