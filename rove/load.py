"""`rove load CONFIG`: bring the interaction files into the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from rove.config import Config
from rove.errors import ConfigError
from rove.ledger.load import load_history
from rove.pseudonyms import Pseudonyms
from rove.readers import read_interactions
from rove.rewards import RewardMap


def run(path: str, overrides: Sequence[str]) -> int:
    """Load the history, say what was read and stored, and return the exit status."""
    config = Config.load(path, overrides)
    if config.data is None or config.data.interactions is None:
        raise ConfigError(f"{path}: data.interactions is missing; say which files to load")
    table, read = read_interactions(config.data.interactions)
    print("\n".join(read.lines()))
    report = load_history(
        config.store,
        config.serving.shards,
        [table],
        RewardMap.from_config(config.rewards),
        Pseudonyms.of_config(config.privacy),
    )
    print(
        f"{report.num_stored:,} interactions of {report.num_users:,} users stored in "
        f"{config.serving.shards} shards, {report.num_duplicates:,} were there before "
        f"({report.duration_s:.1f} s)"
    )
    return 0
