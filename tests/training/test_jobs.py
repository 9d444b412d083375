"""Both commands as jobs: `ray job submit --working-dir .` to a fresh local cluster."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rove.release import latest
from tests.colours import tree, write_data, write_encoder
from tests.commands import COMMAND_S, ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
ADAPT = ["python", "-m", "training.adapt", "shop/rove.yaml", "--no-report"]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Cluster:
    """`ray start --head` in the foreground, and its jobs."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.folder, self._checkout = folder, checkout
        port, self._env = free_port(), dict(os.environ)
        self._env |= {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        self._env |= {
            "RAY_AUTH_MODE": "disabled",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}",
        }
        self._env.pop("RAY_ADDRESS", None)
        ports = {
            "port": free_port(),
            "dashboard-port": port,
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        self._log = folder.with_suffix(".log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(BIN / "ray", "start", "--head", "--block", "--num-cpus=2"),
                    *(f"--{name}={value}" for name, value in ports.items()),
                    *("--include-dashboard=true", f"--temp-dir={folder}", "--disable-usage-stats"),
                    "--object-store-memory=100000000",
                ],
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def job(self, *arguments: str, check: bool = True) -> str:
        """Return what `ray job ARGUMENTS` prints; until the cluster is up, try again."""
        done = subprocess.run(
            [BIN / "ray", "job", *arguments],
            cwd=self._checkout,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        assert not check or done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def wait(self) -> None:
        """Return once jobs are taken."""
        deadline = time.monotonic() + COMMAND_S
        while "SUCCEEDED" not in self.job("submit", "--", "python", "-c", "1", check=False).upper():
            assert self._process.poll() is None and time.monotonic() < deadline, (
                self._log.read_text()
            )
            time.sleep(0.5)

    def copies(self) -> list[Path]:
        """Return Ray's copies of the checkout."""
        return list(self.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))

    def stop(self) -> None:
        """Stop the head and what it started, which is in its process group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(timeout=20)
                return
            except subprocess.TimeoutExpired:
                pass


def settings(**pretrain: Any) -> dict[str, Any]:
    """All paths are relative to the checkout."""
    found = tree(Path("shop"), Path("outputs/tiny"), epochs=3, patience=3)
    shape = {"layers": 1, "hidden": 32, "vocabulary": 100}
    pretrain |= {"path": "outputs/pretrain", "max_steps": 3, "dtype": "float32"}
    return {**found, "pretrain": {"start": "scratch", "scratch": shape, **pretrain}}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages, a tiny shop, and what must stay behind."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("rove", "training"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder / name)
    write_encoder(folder / "shop" / "bert")
    write_data(folder / "shop", num_users=300)
    (folder / "shop" / "rove.yaml").write_text(yaml.safe_dump(settings()), "utf-8")
    for name in (".venv/lib/large", "outputs/old/large", ".git/large"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture(scope="module")
def cluster(checkout: Path) -> Iterator[Cluster]:
    """A fresh one, in a folder with a short name, as its sockets need."""
    with tempfile.TemporaryDirectory(prefix="rv", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder) / "r", checkout)
        try:
            cluster.wait()
            yield cluster
        finally:
            cluster.stop()


def test_a_stopped_adaptation_leaves_no_release_and_goes_on_when_submitted_again(
    cluster: Cluster,
) -> None:
    """Its log ends with where the release is, which is whole."""
    cluster.job("submit", "--submission-id=one", "--no-wait", "--working-dir=.", "--", *ADAPT)
    deadline = time.monotonic() + COMMAND_S
    while "epoch 1: " not in (said := cluster.job("logs", "one")):
        assert "training.adapt: " not in said and time.monotonic() < deadline, said
    cluster.job("stop", "one", check=False)
    assert "STOPPED" in cluster.job("status", "one").upper()
    (copy,) = cluster.copies()
    assert {path.name for path in copy.iterdir()} >= {"rove", "training", "shop"}
    assert not any((copy / name).exists() for name in (".venv", ".git", "outputs/old"))
    assert not list(copy.glob("outputs/tiny/releases/*"))
    said = cluster.job("submit", "--submission-id=two", "--working-dir=.", "--", *ADAPT)
    assert "going on with the run that is there" in said
    log = cluster.job("logs", "two").strip().splitlines()
    release = latest(copy / "outputs" / "tiny" / "releases")
    assert log[-1] == f"the release is in {release.folder}"
    assert any("this job runs in a copy of the folder, " in line for line in log)
    assert "SUCCEEDED" in cluster.job("status", "two").upper()


def test_a_pretraining_is_a_job_and_bad_input_is_a_failed_one(cluster: Cluster) -> None:
    pretrain = ["python", "-m", "training.pretrain", "shop/rove.yaml"]
    cluster.job("submit", "--submission-id=three", "--working-dir=.", "--", *pretrain)
    last = cluster.job("logs", "three").strip().splitlines()[-1]
    (copy,) = cluster.copies()
    assert last.startswith(f"the encoder is in {copy / 'outputs' / 'pretrain' / 'encoder'}; use ")
    bad = [*pretrain, "pretrain.path=outputs/other", "pretrain.num_workers=3"]
    cluster.job("submit", "--submission-id=four", "--working-dir=.", "--", *bad, check=False)
    assert "FAILED" in cluster.job("status", "four").upper()
    assert "3 workers with 1 CPUs each need 3 CPUs, the cluster has 2" in cluster.job(
        "logs", "four"
    )
