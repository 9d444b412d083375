"""`/openapi.json` and `/docs`: the document, and a page to read and try it, without any CDN.

The page is Swagger UI 5, out of the `fastapi-offline` package; only its files are used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from serving.http import Request, Response, Router
from serving.openapi import document

_PACKAGE = "fastapi_offline"
_FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
_CACHED = (("cache-control", "public, max-age=86400"),)
_PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rove API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null});
</script>
</body>
</html>
"""


def add_docs(router: Router, *, with_keys: bool) -> None:
    """Serve the document and the page; `with_keys`: calls need API keys, these too."""
    text = msgspec.json.encode(document(with_keys=with_keys))
    page = Response(200, _PAGE, "text/html; charset=utf-8")
    router.add("GET", "/openapi.json", _constant(Response(200, text)), "read")
    router.add("GET", "/docs", _constant(page), "read")
    folder = _static_folder()
    for name, kind in _FILES.items():
        answer = Response(200, (folder / name).read_bytes(), kind, _CACHED)
        router.add("GET", f"/docs/{name}", _constant(answer), "read")


def _static_folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    assert spec is not None and spec.origin is not None, f"{_PACKAGE} is not installed"
    return Path(spec.origin).parent / "static"


def _constant(answer: Response) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        return answer

    return respond
