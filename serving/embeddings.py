"""`POST /v1/embeddings`: the encoder, in the format of the OpenAI embeddings call."""

from __future__ import annotations

import asyncio
import base64

import msgspec
import numpy as np

from rove.errors import InvalidInput
from serving.encoder import EncoderClient, Vector
from serving.http import Request, Response, decoder
from serving.rows import check_size
from serving.schemas import Embedding, Embeddings, EmbeddingsRequest, Usage

_encode = msgspec.json.Encoder().encode
_body = decoder(EmbeddingsRequest)


class EmbeddingsApi:
    """The encoder's route."""

    def __init__(self, encoder: EncoderClient, max_texts: int) -> None:
        self._encoder = encoder
        self._max_texts = max_texts

    async def embeddings(self, request: Request) -> Response:
        """Return one vector per text."""
        wanted: EmbeddingsRequest = _body(request.body)
        texts = [wanted.input] if isinstance(wanted.input, str) else wanted.input
        if not texts:
            raise InvalidInput("input is empty; give at least one text", field="input")
        check_size(len(texts), self._max_texts, "texts")
        encoded, num_tokens = await asyncio.gather(
            self._encoder.encode(texts), self._encoder.count_tokens(texts)
        )
        size = encoded.vectors.shape[1]
        if wanted.dimensions not in (None, size):
            raise InvalidInput(
                f"dimensions must be {size}, the encoder's own, got {wanted.dimensions}; "
                "leave it out",
                field="dimensions",
            )
        answer = Embeddings(
            object="list",
            data=[
                Embedding(object="embedding", index=i, embedding=_printed(vector, wanted))
                for i, vector in enumerate(encoded.vectors)
            ],
            model=encoded.encoder,
            usage=Usage(prompt_tokens=num_tokens, total_tokens=num_tokens),
        )
        return Response(200, _encode(answer))


def _printed(vector: Vector, wanted: EmbeddingsRequest) -> list[float] | str:
    if wanted.encoding_format == "float":
        return list(map(float, vector))
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
