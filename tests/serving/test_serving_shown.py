"""A service that learns from what it showed, with contexts, behind HTTP."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from rove.release import latest
from serving.learner import FIRST, due_after
from serving.main import free_port
from tests.serving.conftest import Server, another_server

REFIT_S = 60.0


def test_first_refits_come_early_and_then_at_geometric_times() -> None:
    assert due_after(0, 5000, "implicit") == due_after(400_000, 5000, "implicit") == 5000
    assert due_after(0, 5000, "shown") == FIRST
    assert due_after(1000, 5000, "shown") == pytest.approx(300, abs=1)
    assert due_after(400_000, 5000, "shown") == 5000


@pytest.fixture(scope="module")
def shown_server(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, Path]]:
    """The small shop's release with an empty ledger, for learning from what is shown."""
    folder = tmp_path_factory.mktemp("shown")
    tree = yaml.safe_load(server.config_path.read_text("utf-8"))
    shutil.copytree(tree["releases"]["path"], folder / "releases")
    tree.update(feedback="shown")
    tree["rewards"] = {"preset": "news", "reward_wait_time_s": 2.0}
    tree["store"]["url"] = f"sqlite:///{folder / 'ledger'}"
    tree["releases"]["path"] = str(folder / "releases")
    tree["serving"].update(port=free_port())
    path = folder / "rove.yaml"
    path.write_text(yaml.safe_dump(tree), "utf-8")
    with another_server(server, path, folder / "serve.log", signal.SIGTERM) as http:
        yield http, folder


@pytest.mark.ray
def test_the_context_s_text_and_words_teach_which_item_is_wanted(
    shown_server: tuple[httpx.Client, Path], server: Server
) -> None:
    """Mornings want one item, evenings the other; the service finds out, refits, and knows."""
    http, folder = shown_server
    pair = server.items[:2]
    contexts = [
        {"time": "morning", "note": "a quiet breakfast at home with tea, toast and the paper " * 2},
        {
            "time": "evening",
            "note": "dancing with friends all night, with lights and loud music " * 2,
        },
    ]
    before, event_id = latest(folder / "releases").id, ""
    for number in range(100):
        topic, choice = number % 2, number // 2 % 2
        body = {
            "user_id": f"u{number}",
            "k": 1,
            "candidates": {"item_ids": [pair[choice]]},
            "context": contexts[topic],
        }
        decided = http.post("/v1/rank", json=body).raise_for_status().json()
        if topic == choice:
            reward = {"value": 1.0, "user_id": f"u{number}"}
            event_id = decided["event_id"]
            path = f"/v1/events/{event_id}/reward"
            assert http.post(path, json=reward).raise_for_status().json()["status"] == "accepted"
    deadline = time.monotonic() + REFIT_S
    asked = {"user_id": "new", "k": 2, "candidates": {"item_ids": pair}}
    firsts: list[str] = []
    releases = folder / "releases"
    while time.monotonic() < deadline and (firsts != pair or latest(releases).id == before):
        time.sleep(0.25)
        firsts = [
            http.post("/v1/rank", json={**asked, "context": context, "explain": True})
            .raise_for_status()
            .json()["slots"][0]["item_id"]
            for context in contexts
        ]
        # One more answer, so that a refit that came before the expiry is followed by another.
        extra = {"user_id": "u0", "k": 1, "candidates": {"item_ids": [server.items[2]]}}
        one = http.post("/v1/rank", json=extra).raise_for_status().json()
        http.post(f"/v1/events/{one['event_id']}/reward", json={"value": 0.1, "user_id": "u0"})
    assert latest(releases).id != before
    assert firsts == pair
    profile = http.get("/v1/users/u0").raise_for_status().json()
    assert profile["items"][0]["item_id"] in (*pair, server.items[2])
    record = http.get(f"/v1/events/{event_id}").raise_for_status().json()
    assert record["outcome"] == "rewarded" and record["decision"]["context"] == contexts[1]
