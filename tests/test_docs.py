"""What the documentation names exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rove.config import Config
from serving import api

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in ROOT.glob("*.md")) + [ROOT / "examples" / "shop" / "README.md"]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_run_exist(page: Path) -> None:
    modules = set(re.findall(r"python -m ([a-z_.]+)", page.read_text("utf-8")))
    assert all(importlib.util.find_spec(module) for module in modules)


def test_every_command_of_rove_is_in_the_readme_and_has_help() -> None:
    """`rove --help` lists the commands; each answers `--help`."""
    text = subprocess.run(
        [sys.executable, "-m", "rove", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = re.findall(r"^    ([a-z]+) ", text, re.MULTILINE)
    assert set(commands) >= {"serve", "load", "keys", "demo"}
    for command in commands:
        assert f"rove {command}" in README or command in ("demo", "keys")
        subprocess.run(
            [sys.executable, "-m", "rove", command, "--help"], capture_output=True, check=True
        )


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_a_python_example_is_python_and_its_names_exist(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_example_without_files_runs() -> None:
    (code,) = [code for code in EXAMPLES if "MixedLearner" in code]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["mean"].shape == (64, 4)


def test_the_table_of_calls_names_only_what_is_served() -> None:
    served = {endpoint.path for endpoint in api.ENDPOINTS} | {"/docs", "/openapi.json"}
    table = README[README.index("| call | meaning |") :].split("\n\n")[0]
    paths = re.findall(r"(/[a-zA-Z0-9_/{}:]+)", " ".join(re.findall(r"`([^`]*/[^`]*)`", table)))
    shortened = {"/activate": "/v1/events/{event_id}/activate"}
    assert {shortened.get(path, path) for path in paths} <= served


def test_the_configuration_in_the_readme_is_the_example() -> None:
    assert "examples/shop/rove.yaml" in README
    Config.load(ROOT / "examples" / "shop" / "rove.yaml")
