"""The configuration tree: the YAML in the repository, overrides, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rove.config import Config
from rove.errors import ConfigError

ROOT = Path(__file__).parent.parent
SHOP = ROOT / "examples" / "shop" / "rove.yaml"
YAML_FILES = sorted(
    path
    for folder in ("examples", "cluster", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.y*ml")
)


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_yaml_file_in_the_repository_parses(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


@pytest.mark.parametrize(
    "path",
    [path for path in YAML_FILES if path.name == "rove.yaml"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_rove_yaml_is_a_valid_configuration(path: Path) -> None:
    assert Config.load(path).name


def test_the_documented_example_shows_every_section_and_states_the_defaults() -> None:
    """What differs from the defaults: the data, and where the outputs go."""
    shown = Config.load(SHOP).model_dump(exclude={"name", "data", "store", "releases"})
    assert shown == Config(name="shop").model_dump(exclude={"name", "data", "store", "releases"})
    assert set(yaml.safe_load(SHOP.read_text("utf-8"))) == set(Config.model_fields)


def test_the_documented_example_mentions_every_key() -> None:
    text = SHOP.read_text("utf-8")
    sections = [field.annotation for field in Config.model_fields.values()]
    keys = [key for section in sections for key in getattr(section, "model_fields", {})]
    assert [key for key in keys if not re.search(rf"^ +(# )?{key}:", text, re.M)] == []


def test_overrides_replace_values_and_are_yaml() -> None:
    config = Config.load(SHOP, ["serving.port=9000", "policy.kind=ucb", "encoder.threads=2"])
    assert (config.serving.port, config.policy.kind, config.encoder.threads) == (9000, "ucb", 2)


def test_an_override_creates_the_sections_on_its_way() -> None:
    config = Config.parse({"name": "a"}, ["data.catalogue.path=items.csv"])
    assert config.data is not None
    assert config.data.catalogue.path == Path("items.csv")


def test_a_null_section_in_an_override_is_read_as_empty() -> None:
    assert (
        Config.parse({"name": "a", "policy": None}, ["policy.kind=greedy"]).policy.kind == "greedy"
    )


def test_the_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = Config.load(SHOP, ["policy.kind=igw"])
    assert Config.load(config.write(tmp_path / "run")) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("polcy.kind=ucb", "polcy: unknown key; did you mean policy?"),
        ("policy.knd=ucb", "policy.knd: unknown key; did you mean kind?"),
        ("policy.zzz=1", "policy.zzz: unknown key; known keys: kind, strength, epsilon"),
        ("data.catalogue.colums={}", "data.catalogue.colums: unknown key; did you mean columns?"),
        ("serving.port=0", "serving.port: Input should be greater than or equal to 1, got 0"),
        ("serving.port=high", "serving.port: Input should be a valid integer"),
        ("policy.strength=.nan", "policy.strength: "),
        ("policy.epsilon=1.5", "policy.epsilon: Input should be less than or equal to 1, got 1.5"),
        ("rewards.rules.poke.weight=1", "rewards.rules.poke"),
        (
            "store.url=redis://x",
            "store.url must start with sqlite:/// or postgresql+psycopg://, got 'redis://x'",
        ),
        ("name=a b", "name: String should match pattern"),
        ("serving", "an override is written key.path=value, got 'serving'"),
        ("=1", "an override is written key.path=value, got '=1'"),
        ("name.x=1", "override 'name.x=1': name is a value, not a section"),
        ("name=[", "override 'name=[': the value is not valid YAML"),
    ],
)
def test_a_bad_override_is_refused_with_what_to_do(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Config.load(SHOP, [override])


def test_low_and_high_of_a_reward_rule_are_checked_together() -> None:
    with pytest.raises(ConfigError, match=re.escape("high must be above low, got low=5.0, high=1")):
        Config.load(SHOP, ["rewards.rules.rating={transform: value, low: 5, high: 1}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected keys and values, got None"),
        (b"- 1\n", "expected keys and values, got [1]"),
        (b"name: a\n  b: [", "not valid YAML"),
        (b"name: caf\xe9\n", "not UTF-8 at byte 9; save it as UTF-8"),
        (b"policy: {}\n", "name: missing; add it"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rove.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        Config.load(path)
    assert str(path) in caught.value.detail


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("cannot be read: No such file or directory")):
        Config.load(tmp_path / "none.yaml")
