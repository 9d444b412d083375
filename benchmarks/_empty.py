"""An application that does nothing, on raw ASGI: what Serve alone can pass on this machine."""

from __future__ import annotations

from ray import serve
from ray.serve import Application

from serving.asgi import Receive, Scope, Send, read_body

_BODY = b"{}"
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
}
_MAX_BODY_BYTES = 1_000_000


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request and answer an empty object."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await read_body(receive, _MAX_BODY_BYTES)
    await send(dict(_START))
    await send({"type": "http.response.body", "body": _BODY})


class _Empty:
    def __serve_build_asgi_app__(self) -> object:
        return answer


def application() -> Application:
    """Return the application."""
    deployment = serve.deployment(
        name="Empty",
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=1.0,
        logging_config={"enable_access_log": False},
        ray_actor_options={"num_cpus": 0.1},
    )(serve.ingress()(_Empty))
    return deployment.bind()
