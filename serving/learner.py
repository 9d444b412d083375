"""The learner application: refits the model whenever enough has happened.

It reads the ledgers of all shards and writes releases; it owns no user and answers no request, so
nothing waits for it and it can be killed at any time. Shards follow at their next synchronisation.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray import serve

from rove.config import Config
from rove.errors import RoveError
from rove.ledger.items import ItemStore
from rove.ledger.scan import watermark
from rove.refit import refit
from rove.release import latest

APP_NAME = "learner"
DEPLOYMENT_NAME = "Learner"
_RETRY_S = 10.0
FIRST = 50
GROWTH = 1.3
"""Where the model learns from what was shown: interactions before the first refit, and by what
factor they have to grow before the next."""
logger = logging.getLogger(__name__)


class _Learner:
    """Replica that refits."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = Config.parse(config)
        self._learned = _num_seen(self._config)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def check_health(self) -> None:
        """Raise what ended the loop."""
        if self._task.done():
            self._task.result()

    async def _run(self) -> None:
        enough = self._config.serving.refit_interactions
        while enough is not None:
            try:
                num_now = await asyncio.to_thread(_num_stored, self._config)
                if num_now - self._learned >= due_after(
                    self._learned, enough, self._config.feedback
                ):
                    await asyncio.to_thread(_refit, self._config)
                    self._learned = num_now
            except RoveError as error:
                logger.error("no refit: %s", error)
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(self._config.serving.sync_interval_s)


def due_after(num_learned: int, enough: int, feedback: str) -> int:
    """Return after how many new interactions the next refit is due.

    A model of what was shown begins with nothing: its first refits come early, and then at
    geometric times, so that their work stays in proportion to what they learn from.
    """
    if feedback == "implicit":
        return enough
    return min(enough, max(FIRST, int((GROWTH - 1.0) * num_learned)))


def _num_stored(config: Config) -> int:
    return sum(watermark(config.store).values())


def _num_seen(config: Config) -> int:
    """Return how many interactions the release in service was learnt from.

    One that was learnt from files is taken to have seen what was stored before serving began.
    """
    seen = latest(config.releases.path).watermark
    return sum(seen.values()) if seen else _num_stored(config)


def _refit(config: Config) -> None:
    store = ItemStore.open(config.store)
    try:
        folder = refit(config, store)
    finally:
        store.close()
    logger.info("refit: release %s is in service", folder.name)


Learner = serve.deployment(name=DEPLOYMENT_NAME)(_Learner)
