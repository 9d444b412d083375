"""What stays together when several processes share the tests (`pytest -n 2 --dist loadgroup`)."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests together, and those of the server that the folder `serving` shares."""
    for item in items:
        shared = "server" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("server" if shared else str(item.path)))
