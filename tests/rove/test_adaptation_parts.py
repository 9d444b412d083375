"""Texts, episodes, popularity and the draw of a step, by hand."""

from __future__ import annotations

import numpy as np

from rove.adaptation.episodes import Episodes, History
from rove.adaptation.objectives import draw, everything
from rove.adaptation.popularity import Popularity
from rove.adaptation.texts import Texts, hide
from rove.behaviour import Behaviour

DAY_S = 86_400.0


class Tokenizer:
    """A token a word, [CLS] 1 and [SEP] 2 around them."""

    pad_token_id = 0

    def __call__(
        self,
        texts: list[str],
        *,
        truncation: bool,
        max_length: int,
        return_offsets_mapping: bool,
    ) -> dict[str, list[list[object]]]:
        ids: list[list[object]] = []
        spans: list[list[object]] = []
        for text in texts:
            words = text.split()[: max_length - 2]
            ends = [text.index(word) + len(word) for word in words]
            ids.append([1, *(10 + len(word) for word in words), 2])
            spans.append([(0, 0), *((end - 1, end) for end in ends), (0, 0)])
        return {"input_ids": ids, "offset_mapping": spans}


def behaviour(rows: list[tuple[int, int, float]], num_items: int) -> Behaviour:
    """Interactions (user, item, day), each a visit."""
    users, items, days = (np.array(column) for column in zip(*rows, strict=True))
    return Behaviour(
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        rewards=np.ones(len(rows)),
        timestamps=days * DAY_S,
        visits=np.arange(len(rows)),
        num_users=int(users.max()) + 1,
        num_items=num_items,
    )


def test_texts_know_their_tokens_and_their_first_field() -> None:
    texts = Texts.of(["aa bbb\nc", "dddd"], Tokenizer(), 16)
    assert texts.ids.tolist() == [1, 12, 13, 11, 2, 1, 14, 2]
    assert texts.first_field.tolist() == [3, 2]  # [CLS] aa bbb; [CLS] dddd
    ids, present = texts.padded(np.array([1, 0]))
    assert ids.tolist() == [[1, 14, 2, 0, 0], [1, 12, 13, 11, 2]]
    assert present.sum(1).tolist() == [3, 5]


def test_a_span_is_hidden_and_the_ends_stay() -> None:
    """Ten words, a fifth of them: two in a row."""
    texts = Texts.of([" ".join("abcdefghij")], Tokenizer(), 16)
    _, present = texts.padded(np.array([0]))
    for seed in range(20):
        kept = hide(
            texts,
            np.array([0]),
            present,
            np.random.default_rng(seed),
            span_share=0.2,
            field_probability=0.0,
        )[0]
        hidden = np.flatnonzero(~kept)
        assert kept[0] and kept[-1]
        assert len(hidden) in (2, 3)
        assert (np.diff(hidden) == 1).all()


def test_dropping_fields_leaves_the_first() -> None:
    texts = Texts.of(["aa bbb\nc d"], Tokenizer(), 16)
    _, present = texts.padded(np.array([0]))
    kept = hide(
        texts,
        np.array([0]),
        present,
        np.random.default_rng(0),
        span_share=0.0,
        field_probability=1.0,
    )
    assert kept.tolist() == [[True, True, True, False, False, True]]


def test_an_episode_is_what_was_new_in_a_visit_after_what_was_done_before() -> None:
    """User 0 takes 3, 1, 3, 2: new are 1 after 3, and 2 after 1 and 3, which was last."""
    history = History.of(behaviour([(0, 3, 0), (0, 1, 1), (0, 3, 2), (0, 2, 3)], 5), np.ones(4))
    (batch,) = history.all(8, 5, 100)
    assert batch.support_BS.tolist() == [[3, -1], [3, 1]]
    assert batch.query_BQ.tolist() == [[1], [2]]
    assert batch.time_s_B.tolist() == [DAY_S, 3 * DAY_S]


def test_episodes_after_a_moment_know_what_was_before_it() -> None:
    rows = [(0, 3, 0.0), (0, 1, 1.0), (0, 2, 3.0)]
    history = History.of(behaviour(rows, 5), np.ones(3), since_s=2 * DAY_S)
    (batch,) = history.all(8, 5, 100)
    assert batch.known_BK.tolist() == [[1, 3]]


def test_every_rank_gets_as_many_batches_and_no_episode_twice() -> None:
    rows = [(user, item, float(item)) for user in range(8) for item in range(4)]
    history = History.of(behaviour(rows, 4), np.ones(32))
    assert history.num_drawn() == 24  # three episodes a user
    parts = [list(history.epoch(np.random.default_rng(0), 4, 3, rank, 2)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [3, 3] == [history.num_steps(4, 2)] * 2
    seen = [
        (user, time)
        for part in parts
        for batch in part
        for user, time in zip(batch.users_B.tolist(), batch.time_s_B.tolist(), strict=True)
    ]
    assert len(set(seen)) == 24


def test_the_weights_of_queries_are_those_of_their_interactions() -> None:
    history = History.of(behaviour([(0, 3, 0), (0, 1, 1)], 5), np.array([1.0, 7.5]))
    (batch,) = history.all(8, 5, 100)
    assert batch.weight_BQ.tolist() == [[7.5]]


def test_popularity_is_that_before_the_moment() -> None:
    """Item 0 twice on day 0, item 1 once on day 28: at its moment 2 * 1/2 : 1, of 3 in all.

    share_0 = (3 * 1/2 + 1/2) / (3 + 3/2) = 4/9, as share_1; item 2 has (1/2) / 4.5 = 1/9.
    """
    popularity = Popularity.of(behaviour([(0, 0, 0), (1, 0, 0), (0, 1, 28)], 3))
    after = popularity.moments(np.array([29 * DAY_S]))[0]
    np.testing.assert_allclose(np.exp(popularity.log_share_SJ[after]), [4 / 9, 4 / 9, 1 / 9])
    at = popularity.moments(np.array([28 * DAY_S]))[0]
    np.testing.assert_allclose(
        np.exp(popularity.log_share_SJ[at]), [2.5 / 3.5, 0.5 / 3.5, 0.5 / 3.5]
    )
    assert popularity.rate_J.tolist() == [1.0, 0.5, 0.0]


def episodes(query: list[list[int]], support: list[list[int]]) -> Episodes:
    return Episodes(
        users_B=np.arange(len(query)),
        support_BS=np.array(support),
        query_BQ=np.array(query),
        weight_BQ=np.ones(np.array(query).shape),
        known_BK=np.array(support),
        time_s_B=np.zeros(len(query)),
    )


def test_a_step_reads_queries_and_an_even_draw_that_stands_for_the_rest() -> None:
    """Of 100 items 8 are read: queries 5 and 7, support 9 and 11, and 4 of the other 96."""
    drawn = draw(episodes([[5, -1], [7, -1]], [[9, -1], [9, 11]]), 100, 8, np.random.default_rng(0))
    assert set(drawn.items_C[:2].tolist()) == {5, 7}
    assert set(drawn.items_C[2:4].tolist()) == {9, 11}
    assert drawn.num_queries == 4
    assert drawn.counts_C.tolist() == [1.0] * 4 + [24.0] * 4
    assert drawn.place_J[drawn.items_C].tolist() == list(range(8))
    assert drawn.place_J[-1] == -1


def test_a_small_catalogue_is_read_whole() -> None:
    drawn = draw(episodes([[0]], [[1]]), 3, 8, np.random.default_rng(0))
    assert sorted(drawn.items_C.tolist()) == [0, 1, 2]
    assert everything(3).items_C.tolist() == [0, 1, 2]


def test_a_smaller_shop_parts_what_each_of_its_users_took() -> None:
    """User 0 took 0 to 3, user 1 took 4 alone, user 2 took 5 and 6: both others are in it."""
    rows = [(0, item, float(item)) for item in range(4)] + [(1, 4, 0.0), (2, 5, 0.0), (2, 6, 1.0)]
    weights = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 1.0])
    history = History.of(behaviour(rows, 9), weights)
    for batch in history.smaller_shops(np.random.default_rng(0), 8, 2, 20, 9):
        assert batch.shop_F is not None and batch.shop_F.tolist() == list(range(7))
        assert sorted(batch.users_B.tolist()) == [0, 2]
        row = batch.users_B.tolist().index(0)
        support, query = (
            own[row][own[row] >= 0].tolist() for own in (batch.support_BS, batch.query_BQ)
        )
        assert sorted(support + query) == [0, 1, 2, 3]
        assert 1 <= len(support) <= 2
        expected = [(item + 1.0) / len(query) for item in query]
        assert batch.weight_BQ[row][: len(query)].tolist() == expected


def test_a_smaller_shop_has_a_user_however_small_it_is() -> None:
    rows = [(user, item, 0.0) for user, item in ((0, 0), (0, 1), (1, 2), (2, 3), (3, 4))]
    history = History.of(behaviour(rows, 60), np.ones(5))
    shops = list(history.smaller_shops(np.random.default_rng(0), 8, 2, 10, 3))
    assert len(shops) == 10
    assert all(batch.users_B.tolist() == [0] for batch in shops)


def test_only_a_smaller_shops_items_compete() -> None:
    rows = [(0, 1, 0.0), (0, 5, 1.0), (0, 7, 2.0)]
    history = History.of(behaviour(rows, 12), np.ones(3))
    (batch,) = history.smaller_shops(np.random.default_rng(0), 8, 2, 1, 3)
    candidates = draw(batch, 12, 3, np.random.default_rng(0))
    assert candidates.items_C.tolist() == [1, 5, 7]
    assert candidates.counts_C.tolist() == [4.0, 4.0, 4.0]


def test_the_rate_of_an_item_never_taken_is_half_the_least() -> None:
    """Two users: items 0, 0, 0, 1 taken; rates 1.5 and .5 a user, and half of .5 more."""
    popularity = Popularity.of(behaviour([(0, 0, 0), (0, 0, 1), (1, 0, 2), (1, 1, 3)], 3))
    np.testing.assert_allclose(np.exp(popularity.log_rate()), [1.75, 0.75, 0.25], rtol=1e-6)
