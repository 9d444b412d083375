"""`rove serve`: what it refuses, in one line and with status 2.

How it stops is asserted of every server that `another_server` starts.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.serving.conftest import command


def write_config(folder: Path, **settings: object) -> Path:
    path = folder / "rove.yaml"
    tree = {"name": "t", "releases": {"path": str(folder / "releases")}, **settings}
    path.write_text(yaml.safe_dump(tree), "utf-8")
    return path


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from rove.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'ray', 'torch', 'numpy', 'pyarrow', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "set()", done.stdout
    assert "serve" in done.stdout


@pytest.mark.parametrize("name", ["serve", "load", "demo"])
def test_every_command_has_help(name: str) -> None:
    done = command("rove", name, "--help")
    assert done.returncode == 0
    assert "a.b=c" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["serving.prot=1"], "serving.prot: unknown key; did you mean port?"),
        (["serving.shards=0"], "serving.shards"),
        ([], "has no release in service; run python -m training.factorise CONFIG"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    done = command("rove", "serve", str(write_config(tmp_path)), *overrides, RAY_ADDRESS="")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("rove serve: ")
    assert message in line


def test_a_missing_file_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = command("rove", "serve", str(tmp_path / "none.yaml"))
    assert done.returncode == 2
    assert "none.yaml: cannot be read: No such file or directory" in done.stderr


def test_a_port_that_is_taken_is_one_line_and_status_2(tmp_path: Path) -> None:
    """Also when its owner shares it, as HAProxy does."""
    with socket.socket() as owner:
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        port = owner.getsockname()[1]
        path = write_config(tmp_path, serving={"port": port})
        done = command("rove", "serve", str(path), RAY_ADDRESS="")
    assert done.returncode == 2
    assert f"cannot listen at 127.0.0.1:{port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
