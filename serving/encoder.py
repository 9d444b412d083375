"""The encoder application: texts in, vectors out, for the gateway and the shards.

Requests that wait are encoded as one batch. torch is imported where a replica starts, in its
process only, so whatever else imports this module stays light.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from ray import serve

from rove.config import Config
from rove.errors import ReleaseError, RoveError
from rove.release import Release, current, latest
from serving.handles import RemoteApp

APP_NAME = "encoder"
DEPLOYMENT_NAME = "TextEncoder"
_MAX_BATCH = 64  # requests, each of some texts; the encoder itself bounds a forward pass
_TIMEOUT_S = 60.0
_CACHED_QUERIES = 1024
_RETRY_S = 10.0
logger = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]


class Encoded(Struct, frozen=True):
    """Vectors (n, D) and the name of their encoder."""

    vectors: Vector
    encoder: str


class _TextEncoder:
    """Replica of the encoder of the release in service, whichever that is."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = Config.parse(config)
        release = latest(self._config.releases.path)
        self._folder = release.folder
        self._encoder = _encoder_of(release, self._config)
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def check_health(self) -> None:
        """Raise what ended the following."""
        if self._task.done():
            self._task.result()

    async def describe(self) -> str:
        """Return the encoder's name."""
        return str(self._encoder.name)

    async def encode(self, texts: list[str]) -> Encoded:
        """Return the vectors of `texts`, in order."""
        encoded: Encoded = await self._batch(texts)
        return encoded

    async def count_tokens(self, texts: list[str]) -> int:
        """Return how many tokens are read of `texts`."""
        return int(await asyncio.to_thread(self._encoder.count_tokens, texts))

    @serve.batch(max_batch_size=_MAX_BATCH, batch_wait_timeout_s=0.0)
    async def _batch(self, requests: list[list[str]]) -> list[Encoded]:
        encoder = self._encoder  # it may become another one meanwhile
        texts = [text for request in requests for text in request]
        vectors = await asyncio.to_thread(encoder.encode, texts)
        ends = np.cumsum([len(request) for request in requests])[:-1]
        return [Encoded(part, encoder.name) for part in np.split(vectors, ends)]

    async def _follow(self) -> None:
        """Become the encoder of the release in service when that one has another."""
        while True:
            await asyncio.sleep(self._config.serving.sync_interval_s)
            try:
                await asyncio.to_thread(self._look)
            except RoveError as error:
                logger.error("the encoder stays %s: %s", self._encoder.name, error)
                await asyncio.sleep(_RETRY_S)

    def _look(self) -> None:
        if current(self._config.releases.path) == self._folder:
            return
        release = latest(self._config.releases.path)
        if release.encoder != self._encoder.name:
            self._encoder = _encoder_of(release, self._config)
            logger.info("release %s is read with %s", release.id, release.encoder)
        self._folder = release.folder


def _encoder_of(release: Release, config: Config) -> Any:
    """Return the release's own language model, with its adapter if it has one."""
    own = {"model": str(release.encoder_folder), "adapter": None}
    encoder = importlib.import_module("rove.encoder").Encoder.load(
        config.encoder.model_copy(update=own)
    )
    if encoder.name != release.encoder:
        raise ReleaseError(
            f"release {release.id}: {release.encoder_folder} holds the encoder {encoder.name}, but "
            f"the items were read with {release.encoder}; its adapter is missing or it was "
            "changed: learn the release anew"
        )
    return encoder


class EncoderClient:
    """How the gateway and the shards reach the encoder."""

    def __init__(self) -> None:
        self._app = RemoteApp(DEPLOYMENT_NAME, APP_NAME, _TIMEOUT_S)

    async def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the vectors of `texts`; raise `Unavailable` when the encoder does not answer."""
        encoded: Encoded = await self._app.call("encode", list(texts))
        return encoded

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens the encoder reads of `texts`, special tokens included."""
        num_tokens: int = await self._app.call("count_tokens", list(texts))
        return num_tokens

    async def name(self) -> str:
        """Return the encoder's name."""
        name: str = await self._app.call("describe")
        return name


class TextVectors:
    """The vectors of the texts of requests seen last: searches and contexts."""

    def __init__(self, client: EncoderClient) -> None:
        self._client = client
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._encoder = ""

    async def __call__(self, text: str) -> Vector:
        """Return the vector (D,) of `text`."""
        known = self._vectors.get(text)
        if known is not None:
            self._vectors.move_to_end(text)
            return known
        encoded = await self._client.encode([text])
        if encoded.encoder != self._encoder:  # the release in service is read with another one
            self._encoder = encoded.encoder
            self._vectors.clear()
        vector: Vector = encoded.vectors[0]
        self._vectors[text] = vector
        if len(self._vectors) > _CACHED_QUERIES:
            self._vectors.popitem(last=False)
        return vector


TextEncoder = serve.deployment(name=DEPLOYMENT_NAME)(_TextEncoder)
