"""`rove db check|upgrade CONFIG`: the schema versions of a store."""

from __future__ import annotations

import argparse

from rove.config import Config, without_password
from rove.ledger.schema import SCHEMA_VERSION
from rove.ledger.upgrading import upgrade, versions


def run(options: argparse.Namespace) -> int:
    """Do what the command says, and return the exit status."""
    config = Config.load(options.config, options.overrides)
    return _upgrade(config) if options.action == "upgrade" else _check(config)


def _check(config: Config) -> int:
    """Print the version of every part; return 1 if one has to be upgraded."""
    found = versions(config.store, config.serving.shards)
    print(without_password(config.store.url))
    print("\n".join(f"  {one}" for one in found))
    usable = all(one.version in (None, str(SCHEMA_VERSION)) for one in found)
    print(f"This Rove reads schema version {SCHEMA_VERSION}.")
    return 0 if usable else 1


def _upgrade(config: Config) -> int:
    before = upgrade(config.store, config.serving.shards)
    print(without_password(config.store.url))
    for one in before:
        if one.version is None:
            print(f"  {one.part}: made")
        elif one.is_due:
            print(f"  {one.part}: {one.version} -> {SCHEMA_VERSION}")
        else:
            print(f"  {one.part}: schema version {one.version} already")
    return 0
