"""Both commands as jobs: `ray job submit --working-dir .` to a fresh local cluster with a token."""

from __future__ import annotations

import os
import secrets
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

import httpx
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
        port, token = free_port(), secrets.token_hex(32)
        address = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=COMMAND_S
        )
        self._env = dict(os.environ)
        self._env |= {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        self._env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        # Train takes a checkpoint per poll, every 2 s by default.
        self._env |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25"}
        self._env |= {"RAY_API_SERVER_ADDRESS": address}
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

    def submit(self, name: str, *arguments: str) -> str:
        """Return what `ray job submit ARGUMENTS` prints for a job of this name."""
        done = subprocess.run(
            [BIN / "ray", "job", "submit", f"--submission-id={name}", *arguments],
            cwd=self._checkout,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def log(self, name: str) -> str:
        """Return what the job has printed."""
        text: str = self.http.get(f"/api/jobs/{name}/logs").raise_for_status().json()["logs"]
        return text.strip()

    def end_of(self, name: str) -> str:
        """Return the job's status once it has ended."""
        deadline = time.monotonic() + COMMAND_S
        while True:
            status: str = self.http.get(f"/api/jobs/{name}").raise_for_status().json()["status"]
            if status in {"SUCCEEDED", "FAILED", "STOPPED"}:
                return status
            assert time.monotonic() < deadline, status
            time.sleep(0.1)

    def wait(self) -> None:
        """Return once jobs are taken."""
        deadline = time.monotonic() + COMMAND_S
        while not self._takes_jobs():
            assert self._process.poll() is None and time.monotonic() < deadline, (
                self._log.read_text()
            )
            time.sleep(0.2)

    def _takes_jobs(self) -> bool:
        try:
            return self.http.post("/api/jobs/", json={"entrypoint": "true"}).is_success
        except httpx.TransportError:
            return False

    def copies(self) -> list[Path]:
        """Return Ray's copies of the checkout."""
        return list(self.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))

    def stop(self) -> None:
        """Stop the head and what it started, which is in its process group."""
        self.http.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(timeout=5)
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
    assert httpx.get(f"{cluster.http.base_url}/api/jobs/").status_code == 401  # without the token
    cluster.submit("one", "--no-wait", "--working-dir=.", "--", *ADAPT)
    deadline = time.monotonic() + COMMAND_S
    while "epoch 1: " not in (said := cluster.log("one")):
        assert "training.adapt: " not in said and time.monotonic() < deadline, said
        time.sleep(0.05)
    cluster.http.post("/api/jobs/one/stop").raise_for_status()
    assert cluster.end_of("one") == "STOPPED"
    (copy,) = cluster.copies()
    assert {path.name for path in copy.iterdir()} >= {"rove", "training", "shop"}
    assert not any((copy / name).exists() for name in (".venv", ".git", "outputs/old"))
    assert not list(copy.glob("outputs/tiny/releases/*"))
    printed = cluster.submit("two", "--working-dir=.", "--", *ADAPT)
    assert "going on with the run that is there" in printed
    log = cluster.log("two").splitlines()
    release = latest(copy / "outputs" / "tiny" / "releases")
    assert log[-1] == f"the release is in {release.folder}"
    assert any("this job runs in a copy of the folder, " in line for line in log)
    assert cluster.end_of("two") == "SUCCEEDED"


def test_a_pretraining_is_a_job_and_bad_input_is_a_failed_one(cluster: Cluster) -> None:
    """Both at a time; the log of either ends with the line that counts."""
    pretrain = ["python", "-m", "training.pretrain", "shop/rove.yaml"]
    bad = [*pretrain, "pretrain.path=outputs/other", "pretrain.num_workers=3"]
    cluster.submit("three", "--no-wait", "--working-dir=.", "--", *bad)
    cluster.submit("four", "--working-dir=.", "--", *pretrain)
    (copy,) = cluster.copies()
    last = cluster.log("four").splitlines()[-1]
    assert last.startswith(f"the encoder is in {copy / 'outputs' / 'pretrain' / 'encoder'}; use ")
    assert cluster.end_of("three") == "FAILED"
    message = "3 workers with 1 CPUs each need 3 CPUs, the cluster has 2; "
    assert cluster.log("three").splitlines()[-1].startswith(f"training.pretrain: {message}")
