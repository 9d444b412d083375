"""`cluster/serve.yaml` deploys what `rove serve` runs."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from rove.config import Config
from rove.errors import ConfigError
from serving import app
from serving.app import portable, targets

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "shop" / "rove.yaml"
FILE = ROOT / "cluster" / "serve.yaml"


def described() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    return tree


def test_the_file_is_a_serve_configuration() -> None:
    ServeDeploySchema.model_validate(described())


def test_the_file_has_the_applications_of_rove_serve() -> None:
    applications = {one["name"]: one["route_prefix"] for one in described()["applications"]}
    expected = {one.name: one.route_prefix for one in targets(Config.load(EXAMPLE))}
    assert applications == expected


def test_every_builder_builds_its_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for one in described()["applications"]:
        module, _, name = one["import_path"].partition(":")
        built = getattr(import_module(module), name)(one["args"])
        assert (
            built._bound_deployment.name
            == {
                "shard": "BanditShard",
                "encoder": "TextEncoder",
                "gateway": "Gateway",
                "learner": "Learner",
            }[name]
        )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"config": str(EXAMPLE), "shard": 4}, "shard must be in 0..3 (serving.shards), got 4"),
        ({"config": str(EXAMPLE)}, "Object missing required field `shard`"),
        ({"config": str(EXAMPLE), "shard": 0, "shrad": 1}, "unknown field `shrad`"),
        ({"config": "none.yaml", "shard": 0}, "none.yaml: cannot be read"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        app.shard(args)


def test_a_portable_configuration_means_the_same_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths become absolute; doing it twice changes nothing."""
    monkeypatch.chdir(tmp_path)
    tree = portable(Config.load(EXAMPLE))
    assert tree["store"]["url"] == f"sqlite:///{tmp_path}/outputs/shop/ledger"
    assert tree["releases"]["path"] == f"{tmp_path}/outputs/shop/releases"
    assert portable(Config.parse(tree)) == tree
