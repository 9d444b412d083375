"""Which package may import which: `rove` stands alone, training and serving meet through files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "rove": {"ray", "training", "serving", "tuning"},
    "training": {"serving", "tuning"},
    "serving": {"training", "tuning"},
    "tuning": {"serving"},
}


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level package of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def modules(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def loaded_by(statements: str) -> set[str]:
    """Return the top-level packages that a new interpreter has loaded after `statements`."""
    listing = "print(*{name.partition('.')[0] for name in sys.modules})"
    code = f"import sys\n{statements}\n{listing}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-2].split())


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_source_file_imports_a_package_it_must_not_know(package: str) -> None:
    paths = list((ROOT / package).rglob("*.py"))
    assert paths
    crossings = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imported(path)
        if name in FORBIDDEN[package]
    ]
    assert crossings == []


def test_importing_every_module_of_rove_does_not_load_ray() -> None:
    names = modules("rove")
    assert "rove.events" in names
    assert "ray" not in loaded_by("\n".join(f"import {name}" for name in names))


def test_the_engine_does_not_load_torch_so_a_shard_starts_fast() -> None:
    loaded = loaded_by("import rove.engine")
    assert loaded.isdisjoint({"torch", "transformers", "ray"}), loaded


def test_the_client_is_light_and_loaded_only_by_name() -> None:
    loaded = loaded_by("import rove.client")
    assert loaded.isdisjoint({"numpy", "torch", "ray", "pydantic", "sqlalchemy"}), loaded
    assert "httpx" not in loaded_by("import rove, rove.events, rove.engine")


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_relative_import_hides_an_arrow_between_packages(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text("utf-8"), str(path)))
        relative = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
        assert not relative, f"{path.relative_to(ROOT)}: write imports in full"


def test_test_folders_are_not_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
