"""Where shards may start, their store has to be."""

from __future__ import annotations

import re

import pytest

from rove.config import Config
from rove.errors import ConfigError
from serving.runner import check_nodes


def config(url: str) -> Config:
    return Config.parse({"name": "shop", "store": {"url": url}})


def test_a_cluster_of_several_nodes_needs_a_store_that_all_of_them_reach() -> None:
    local = config("sqlite:///outputs/ledger")
    check_nodes(local, 1)
    message = "a folder of one machine, and the cluster has 2 nodes"
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_nodes(local, 2)
    check_nodes(config("postgresql+psycopg://rove@db/rove"), 2)
