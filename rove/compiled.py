"""Loops that numba compiles: for what is too small or too irregular for numpy's calls to pay.

Compiled when a module is first imported, for the types that are named, and kept beside it (or in
the user's cache, where that folder cannot be written). They release the interpreter's lock. Floats
are added in the order that is written, so results are the same on every machine of a kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(signature: str) -> Callable[[Function], Function]:
    """Compile a function for arguments of these types; others raise TypeError."""

    def decorate(function: Function) -> Function:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            return cast(Function, numba.njit(signature, cache=True, **options)(function))
        except RuntimeError:  # no folder that can be written to keep it in
            return cast(Function, numba.njit(signature, **options)(function))

    return decorate


def inlined(function: Function) -> Function:
    """Mark a function that compiled ones call."""
    return cast(Function, numba.njit(function, error_model="numpy"))
