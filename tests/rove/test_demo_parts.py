"""The parts of the demo that need no server of Rove: cut, windows, client, figures."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rove.baselines.base import Basket
from rove.baselines.replay import Requests
from rove.config import Config
from rove.demo import plot, processes, report
from rove.demo.reading import NO_PEFT, Reading, job
from rove.demo.replay import attributed, replay
from rove.demo.results import LEARNING, Results, make_rows, summary
from rove.demo.rivals import ALS, BLEND, EASE, LIVE_POPULARITY, POPULARITY, RANDOM, rank_rivals
from rove.demo.split import Visit, read_shop, write_history
from rove.demo.windows import windows
from rove.errors import ConfigError, DataError, RoveError
from rove.events import Decision, Interaction, InteractionType, Slot
from rove.readers import read_interactions

DAY_S = 86_400


def shop_config(folder: Path, rows: list[dict[str, object]]) -> Config:
    """A shop of items a to e with the given purchases."""
    items = pa.table({"item_id": list("abcde"), "title": [f"thing {name}" for name in "abcde"]})
    pq.write_table(items, folder / "items.parquet")
    pq.write_table(pa.Table.from_pylist(rows), folder / "purchases.parquet")
    source = {"path": str(folder / "purchases.parquet"), "type": "purchase"}
    return Config.parse(
        {
            "name": "shop",
            "data": {
                "catalogue": {"path": str(folder / "items.parquet")},
                "interactions": {**source, "columns": {"session": "invoice"}},
            },
        }
    )


def line(invoice: int | None, user: str, item: str, day: float) -> dict[str, object]:
    return {"invoice": invoice, "user_id": user, "item_id": item, "timestamp": day * DAY_S}


ROWS = [
    line(1, "u", "a", 1),
    line(1, "u", "b", 1),
    line(2, "v", "a", 2),
    line(3, "v", "b", 3),
    line(4, "u", "c", 4),
    line(5, "w", "c", 5),
    line(5, "w", "zzz", 5),
    line(6, "u", "d", 7),
    line(6, "u", "d", 7),
    line(7, "w", "a", 6),
    line(None, "v", "e", 8),
]


def test_the_cut_leaves_a_fifth_of_the_rows_to_replay_in_order_of_time(tmp_path: Path) -> None:
    """10 rows of listed items: the cut is the ninth time, day 7, where invoice 6 begins."""
    shop = read_shop(shop_config(tmp_path, ROWS))
    assert shop.num_unlisted == 1
    assert shop.cut == 7 * DAY_S
    assert shop.history_table.num_rows == len(shop.history.users) == 7
    assert [(visit.visit_id, visit.user_id) for visit in shop.visits] == [
        ("6", "u"),
        ("v@691200", "v"),
    ]


def test_a_visit_has_its_lines_as_they_are_and_its_basket_distinct(tmp_path: Path) -> None:
    visit = read_shop(shop_config(tmp_path, ROWS)).visits[0]
    assert [row.interaction_id for row in visit.interactions] == ["6:0", "6:1"]
    assert {(row.item_id, row.timestamp) for row in visit.interactions} == {("d", 7.0 * DAY_S)}
    assert visit.basket.items.tolist() == [3]


def test_the_number_of_visits_can_be_bounded(tmp_path: Path) -> None:
    config = shop_config(tmp_path, ROWS)
    assert [visit.visit_id for visit in read_shop(config, 1).visits] == ["6"]


def test_the_written_history_reads_back_without_a_column_map(tmp_path: Path) -> None:
    shop = read_shop(shop_config(tmp_path, ROWS))
    write_history(shop, tmp_path / "run" / "history.parquet")
    tree = {"name": "a", "data": {"catalogue": {"path": "x"}}}
    config = Config.parse(tree, [f"data.interactions.path={tmp_path}/run/history.parquet"])
    assert config.data is not None and config.data.interactions is not None
    table, read = read_interactions(config.data.interactions)
    assert read.num_kept == read.num_read == 7
    assert table["session"].to_pylist() == ["1", "1", "2", "3", "4", "5", "7"]


def test_a_shop_of_one_moment_cannot_be_cut(tmp_path: Path) -> None:
    config = shop_config(tmp_path, [line(1, "u", "a", 1), line(2, "v", "b", 1)])
    with pytest.raises(DataError, match=re.escape("2 rows cannot be cut into a history")):
        read_shop(config)


def test_a_configuration_without_a_history_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("data.interactions is missing")):
        read_shop(Config(name="a"))


def visit(number: int, user: str, items: str) -> Visit:
    """Visit `number` of `user`, on day `number`, with one line per letter of `items`."""
    basket = Basket(
        session=number,
        user=0,
        items=np.array(sorted(ord(item) - ord("a") for item in set(items))),
        timestamp=number * DAY_S,
    )
    rows = [
        Interaction(
            interaction_id=f"{number}:{index}",
            user_id=user,
            item_id=item,
            type=InteractionType.PURCHASE,
            timestamp=number * DAY_S,
        )
        for index, item in enumerate(items)
    ]
    return Visit(visit_id=str(number), user_id=user, basket=basket, interactions=rows)


def test_windows_are_bounded_and_end_before_a_user_returns() -> None:
    visits = [visit(number, user, "a") for number, user in enumerate("uvwuuxyz")]
    names = ["".join(v.user_id for v in window) for window in windows(visits, 3)]
    assert names == ["uvw", "u", "uxy", "z"]


def test_no_visits_give_no_windows() -> None:
    assert list(windows([], 3)) == []


def decision(event_id: str, user_id: str, items: str) -> Decision:
    slots = [
        Slot(slot=slot, item_id=item, score=0.0, propensity=1.0, reason="exploit")
        for slot, item in enumerate(items)
    ]
    return Decision(
        event_id=event_id,
        user_id=user_id,
        policy="p",
        policy_version="1",
        release="r",
        seed=0,
        request_digest="",
        candidates_digest="",
        num_candidates=5,
        slots=slots,
        created_at=0.0,
        expires_at=1.0,
        activated_at=0.0,
    )


def test_only_what_was_in_the_slate_is_attributed_to_it() -> None:
    bought = attributed(visit(1, "u", "ace").interactions, decision("demo-1", "u", "ca"))
    assert [(row.item_id, row.event_id, row.slot) for row in bought] == [
        ("a", "demo-1", 1),
        ("c", "demo-1", 0),
        ("e", None, None),
    ]


@dataclass
class Shop:
    """A hand-written server of the two calls: always offers `ab`, keeps what it is sent."""

    received: list[tuple[str, str]] = field(default_factory=list)
    """(path, user), in order of arrival."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    """Statuses to answer first."""
    url: str = ""

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        if self.failures:
            return self.failures.pop(), b'{"detail": "no"}'
        self.bodies.append(body)
        if path == "/v1/rank":
            self.received.append((path, body["user_id"]))
            return 201, json.dumps(_decided(body)).encode()
        rows = body["interactions"]
        self.received.append((path, rows[0]["user_id"]))
        outcomes = [{"interaction_id": row["interaction_id"], "status": "accepted"} for row in rows]
        return 200, json.dumps({"outcomes": outcomes}).encode()


def _decided(body: dict[str, Any]) -> dict[str, Any]:
    slots = [
        {"slot": slot, "item_id": item, "score": 0.0, "propensity": 1.0, "reason": "exploit"}
        for slot, item in enumerate("ab")
    ]
    same = dict.fromkeys(("policy", "policy_version", "release"), "x")
    digests = {"seed": 0, "request_digest": "", "candidates_digest": "", "num_candidates": 5}
    times = {"created_at": 0.0, "expires_at": 1.0, "activated_at": None}
    ids = {"event_id": body["event_id"], "user_id": body["user_id"]}
    return {**ids, **same, **digests, **times, "slots": slots}


@contextmanager
def running(shop: Shop) -> Iterator[Shop]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                status, content = shop.answer(self.path, body)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        shop.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield shop
        finally:
            server.shutdown()
            thread.join()


def test_the_replay_ranks_a_window_before_it_posts_its_purchases() -> None:
    """Users u v | u: both ranks, then both posts, then the second visit of u."""
    visits = [visit(1, "u", "a"), visit(2, "v", "cb"), visit(3, "u", "e")]
    done: list[list[str]] = []
    with running(Shop()) as shop:
        slates, traffic = replay(
            shop.url, visits, 2, lambda window, _: done.append([v.user_id for v in window])
        )
    assert [set(shop.received[:2]), set(shop.received[2:4]), shop.received[4:]] == [
        {("/v1/rank", "u"), ("/v1/rank", "v")},
        {("/v1/events", "u"), ("/v1/events", "v")},
        [("/v1/rank", "u"), ("/v1/events", "u")],
    ]
    assert slates == [["a", "b"]] * 3
    assert done == [["u", "v"], ["u"]]
    assert traffic.outcomes == {"accepted": 4}
    assert (len(traffic.rank_s), len(traffic.events_s), traffic.num_retries) == (3, 3, 0)


def test_the_replay_asks_for_new_items_under_an_id_of_the_invoice() -> None:
    with running(Shop()) as shop:
        replay(shop.url, [visit(1, "u", "a")], 2, lambda *_: None)
    ranked, posted = shop.bodies
    assert ranked["event_id"] == "demo-1"
    assert (ranked["k"], ranked["exclude_seen"]) == (2, True)
    assert posted["interactions"][0]["slot"] == 0
    assert posted["interactions"][0]["timestamp"] == DAY_S


def test_the_replay_sends_again_what_was_refused_for_the_moment() -> None:
    with running(Shop(failures=[503, 429])) as shop:
        _, traffic = replay(shop.url, [visit(1, "u", "a")], 2, lambda *_: None)
    assert traffic.num_retries == 2
    assert [path for path, _ in shop.received] == ["/v1/rank", "/v1/events"]


def test_the_replay_stops_at_a_refusal_that_stays() -> None:
    message = 'POST /v1/rank was refused: 400 {"detail": "no"}'
    with running(Shop(failures=[400])) as shop, pytest.raises(RoveError, match=re.escape(message)):
        replay(shop.url, [visit(1, "u", "a")], 2, lambda *_: None)


def test_a_failed_command_is_one_line_with_its_log(tmp_path: Path) -> None:
    """The command line parser says what is wrong and ends with status 2."""
    log = tmp_path / "load.log"
    with pytest.raises(RoveError) as caught:
        processes.run(("rove", "load"), log)
    assert re.fullmatch(r"`rove load` ended with status 2: .+", caught.value.detail)
    assert caught.value.detail.endswith(f"(its log: {log})")


def test_a_job_beside_the_demo_ends_with_it_or_says_how_it_failed(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    assert processes.Job(("rove", "--help"), log).wait() > 0
    running = processes.Job(("http.server", "0"), log)
    running.stop()
    with pytest.raises(RoveError, match=re.escape("`http.server 0` ended with status -9")):
        running.wait()


def test_the_release_is_adapted_where_that_is_possible() -> None:
    """Bottlenecks need nothing; the other methods need peft, which the tests have."""
    for method in ("houlsby", "lora"):
        config = Config.parse({"name": "a"}, [f"adapt.method={method}"])
        assert job(config, Path("a.yaml")) == ("training.adapt", "a.yaml", "--no-report")


def test_a_demo_that_could_not_adapt_says_why() -> None:
    reading = Reading(adapted=False, adapted_ndcg=None, frozen_ndcg=None, note=NO_PEFT)
    assert reading.line().startswith("language model: as it is (nothing was adapted: peft is not")


def test_an_address_in_use_is_refused_before_anything_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = Config.parse({"name": "a"}, [f"serving.port={port}"])
        with pytest.raises(ConfigError, match=re.escape(f"something listens at 127.0.0.1:{port}")):
            processes.check_free(config)
    processes.check_free(config)


def two_requests() -> Requests:
    return Requests(
        baskets=np.array([0, 2]),
        users=np.array([0, 1]),
        times=np.array([0.0, 1.0]),
        relevant=[np.array([1, 2]), np.array([4])],
        known=[np.array([]), np.array([0])],
    )


def test_rows_compare_with_rove_learning_request_by_request() -> None:
    """Learning hits 2 of 2 and 0 of 2, the other 1 and 0: 1/2 and 1/4, ahead by 1/4."""
    ranked = {"other": np.array([[1, 0], [0, 3]]), LEARNING: np.array([[1, 2], [0, 3]])}
    other, learning = make_rows(ranked, two_requests(), 2, np.random.default_rng(0))
    assert (other.precision.mean, learning.precision.mean) == (0.25, 0.5)
    assert other.behind is not None and other.behind.mean == 0.25
    assert learning.behind is None
    assert (learning.recall, learning.reciprocal_rank) == (0.5, 0.5)


def test_the_table_says_who_is_better_and_by_how_much(tmp_path: Path) -> None:
    ranked = {"other": np.array([[1, 0], [0, 3]]), LEARNING: np.array([[1, 2], [0, 3]])}
    with running(Shop()) as shop:
        _, traffic = replay(shop.url, [visit(1, "u", "a")], 2, lambda *_: None)
    results = Results(
        k=2,
        release="r",
        num_history=7,
        cut="2011-10-02T12:26:00+00:00",
        num_invoices=3,
        num_requests=2,
        num_users=2,
        rows=make_rows(ranked, two_requests(), 2, np.random.default_rng(0)),
        reading=Reading(adapted=True, adapted_ndcg=0.25, frozen_ndcg=0.125),
        settings={},
        missing={"ALS": "not installed"},
        http=summary(traffic),
        server=shop.url,
        plot=None,
        seconds={},
    )
    table = report.table(results)
    assert [list(column.cells)[1] for column in table.columns[:2]] == [LEARNING, "0.5000"]
    assert table.caption == (
        "language model: adapted to the history (NDCG@10 on the history's held-out end: adapted "
        "0.2500, as it is 0.1250)"
    )
    told = "\n".join(report.lines(results))
    assert "1 accepted" in told and "no ALS: not installed" in told


def test_every_rival_ranks_every_request(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        line(day * 20 + user, f"u{user}", str(item), day)
        for day in range(1, 11)
        for user in range(20)
        for item in rng.choice(list("abcde"), 1)
    ]
    shop = read_shop(shop_config(tmp_path, rows))
    told: list[str] = []
    rivals = rank_rivals(shop, 2, rng, told.append)
    assert list(rivals.ranked) == [RANDOM, POPULARITY, LIVE_POPULARITY, ALS, EASE, BLEND]
    assert len({codes.shape for codes in rivals.ranked.values()}) == 1
    assert rivals.missing == {}
    assert rivals.settings.keys() == {ALS, EASE, BLEND}
    assert set(told) > set(rivals.ranked)


def test_the_rolling_mean_is_of_the_last_values() -> None:
    """Width 2 over 1, 0, 0, 1: 1, 1/2, 0, 1/2."""
    assert plot.rolling_mean(np.array([1.0, 0, 0, 1]), 2).tolist() == [1, 0.5, 0, 0.5]


def test_the_learning_curve_is_a_picture(tmp_path: Path) -> None:
    values = {LEARNING: np.arange(20.0) / 20, "other": np.full(20, 0.4)}
    plot.draw(values, np.arange(20.0) * DAY_S, 10, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
