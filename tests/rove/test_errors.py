"""Errors: one tree, structured fields, and the way between processes."""

from __future__ import annotations

import pickle

import pytest

import rove.errors
from rove.errors import DataError, InvalidInput, Misdirected, Overloaded, RoveError, shown

KINDS = [
    kind
    for kind in vars(rove.errors).values()
    if isinstance(kind, type) and issubclass(kind, RoveError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_with_its_fields(kind: type[RoveError]) -> None:
    error = kind("what is wrong, the value, what to do", field="k", shards=[1, 2])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.detail, copy.fields) == (error.detail, {"field": "k", "shards": [1, 2]})
    assert str(copy) == "what is wrong, the value, what to do"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_title_and_a_place_in_the_drawn_tree(
    kind: type[RoveError],
) -> None:
    assert 400 <= kind.status < 600
    assert kind.title
    assert kind.__name__ in (rove.errors.__doc__ or "")


def test_the_drawn_tree_states_each_status() -> None:
    lines = (rove.errors.__doc__ or "").splitlines()
    for kind in KINDS:
        drawn = next(line for line in lines if kind.__name__ in line.split())
        assert kind is RoveError or str(kind.status) in drawn.split()


def test_bad_data_is_invalid_input_and_overload_is_not() -> None:
    assert issubclass(DataError, InvalidInput)
    assert not issubclass(Overloaded, InvalidInput)
    assert Misdirected("x", shard=3).fields == {"shard": 3}


def test_shown_is_printable_ascii_of_bounded_length() -> None:
    assert shown("caf\u00e9\n") == "'caf\\xe9\\n'"
    assert shown("x" * 1000) == f"'{'x' * 119}... (cut)"
    assert shown(float("nan")) == "nan"
