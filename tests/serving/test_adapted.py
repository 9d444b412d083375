"""A release whose encoder has an adapter: what serves it, what refuses it, and what keeps it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from rove.config import Config, EncoderSection
from rove.encoder import Encoder
from rove.errors import ConfigError, ReleaseError
from rove.ledger.items import ItemStore
from rove.ledger.load import load_history
from rove.readers import read_interactions
from rove.refit import refit
from rove.release import Release, latest
from rove.rewards import RewardMap
from serving.encoder import _TextEncoder
from serving.main import free_port
from tests.colours import tree, write_adapter, write_data, write_encoder
from tests.serving.conftest import Server, another_server
from training.first_release import run


def write_shop(folder: Path) -> tuple[Config, Path]:
    """Put an adapted release into service; return the configuration, which names no adapter."""
    write_encoder(folder / "bert")
    write_data(folder)
    settings: dict[str, Any] = tree(folder, folder, method="houlsby")
    settings["serving"] = {"port": free_port(), "shards": 1, "sync_interval_s": 0.2}
    path = folder / "rove.yaml"
    path.write_text(yaml.safe_dump(settings), "utf-8")
    config = Config.load(path)
    adapter = write_adapter(config, folder / "adapter")
    run(adapted(config, adapter), from_ledger=False, with_report=False)
    return config, path


def adapted(config: Config, adapter: Path) -> Config:
    encoder = config.encoder.model_copy(update={"adapter": adapter})
    return config.model_copy(update={"encoder": encoder})


def encoder_of(release: Release) -> Encoder:
    return Encoder.load(EncoderSection(model=str(release.encoder_folder), max_tokens=16))


async def name_served(config: Config) -> str:
    """Return the name that a replica of the encoder gives."""
    replica = _TextEncoder(config.model_dump(mode="json"))
    await replica.check_health()
    return await replica.describe()


@pytest.fixture
def shop(tmp_path: Path) -> Config:
    return write_shop(tmp_path)[0]


def test_the_release_decides_about_the_adapter_not_the_configuration(shop: Config) -> None:
    """A release without an adapter is not given the one that the configuration names."""
    release, adapter = latest(shop.releases.path), shop.releases.path.parent / "adapter"
    assert asyncio.run(name_served(shop)) == release.encoder != Encoder.load(shop.encoder).name
    run(shop, from_ledger=False, with_report=False)
    plain = latest(shop.releases.path).encoder
    assert asyncio.run(name_served(adapted(shop, adapter))) == plain != release.encoder


def test_a_release_that_lost_its_adapter_is_refused(shop: Config) -> None:
    release = latest(shop.releases.path)
    shutil.rmtree(release.encoder_folder / "adapter")
    message = f"but the items were read with {release.encoder}; its adapter is missing"
    with pytest.raises(ReleaseError, match=re.escape(message)):
        asyncio.run(name_served(shop))


def test_an_adapter_for_another_base_is_refused(shop: Config) -> None:
    card = latest(shop.releases.path).encoder_folder / "adapter" / "adapter.json"
    described = json.loads(card.read_text("utf-8")) | {"base": "another"}
    card.unlink()  # linked to the file that it was copied from
    card.write_text(json.dumps(described), "utf-8")
    message = "an adapter for the encoder another, but encoder.model is "
    with pytest.raises(ConfigError, match=re.escape(message)):
        asyncio.run(name_served(shop))


def test_a_replica_follows_the_release_in_service(shop: Config) -> None:
    async def followed() -> tuple[str, str]:
        replica = _TextEncoder(shop.model_dump(mode="json"))
        before = await replica.describe()
        await asyncio.to_thread(run, shop, from_ledger=False, with_report=False)
        for _ in range(100):
            if await replica.describe() != before:
                break
            await asyncio.sleep(0.1)
        return before, await replica.describe()

    release = latest(shop.releases.path)
    assert asyncio.run(followed()) == (release.encoder, latest(shop.releases.path).encoder)


def test_a_refit_keeps_the_adapter(shop: Config) -> None:
    assert shop.data is not None and shop.data.interactions is not None
    before = latest(shop.releases.path)
    table, _ = read_interactions(shop.data.interactions)
    load_history(shop.store, 1, [table], RewardMap.from_config(shop.rewards))
    store = ItemStore.open(shop.store)
    refit(shop, store)
    store.close()
    after = latest(shop.releases.path)
    assert after.id != before.id and after.encoder == before.encoder
    assert encoder_of(after).name == before.encoder
    np.testing.assert_array_equal(after.embeddings_JE, before.embeddings_JE)


@pytest.fixture
def served(server: Server, tmp_path: Path) -> Iterator[tuple[Config, httpx.Client]]:
    """`rove serve` on an adapted release."""
    config, path = write_shop(tmp_path)
    with another_server(server, path, tmp_path / "serve.log", signal.SIGINT) as http:
        yield config, http


@pytest.mark.ray
@pytest.mark.slow
def test_a_new_item_is_read_with_the_adapter_over_http(
    served: tuple[Config, httpx.Client],
) -> None:
    """Its vector is that of base and adapter, and a search for its text finds it."""
    config, http = served
    release = latest(config.releases.path)
    text = "small red pen"
    assert http.put("/v1/items/cold", json={"title": text}).status_code in (200, 201)
    answer = http.post("/v1/embeddings", json={"input": text}).json()
    assert answer["model"] == release.encoder
    expected = encoder_of(release).encode([text])[0]
    np.testing.assert_allclose(answer["data"][0]["embedding"], expected, atol=1e-4)
    assert np.abs(expected - Encoder.load(config.encoder).encode([text])[0]).max() > 0.01
    wanted = {"user_id": "u0", "k": 5, "candidates": {"query": text}}
    ranked = http.post("/v1/rank", json=wanted)
    assert ranked.status_code == 201 and len(ranked.json()["slots"]) == 5
    alone = {"user_id": "u0", "k": 1, "candidates": {"item_ids": ["cold"]}}
    assert [s["item_id"] for s in http.post("/v1/rank", json=alone).json()["slots"]] == ["cold"]
