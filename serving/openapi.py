"""The OpenAPI 3.1 document, made from `serving.api` and the types that decode the bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from serving import api
from serving.api import Endpoint
from serving.http import JSON
from serving.problems import PROBLEM_TYPE
from serving.schemas import Problem

_REF = "#/components/schemas/{name}"
_VARIABLE = re.compile(r"\{(\w+)\}")
_VERSION = "1"
_DESCRIPTION = (
    "Rank items for users, tell what they did, and the next rank knows it. "
    "Paths that list a second server are also served by each shard itself, at its own prefix, "
    "for clients that read `/v1/topology`. The header `x-request-timeout-s` says how many seconds "
    "the client waits: what is not answered by then is answered 504 and given up."
)
_KEY = "api_key"
_SCHEMES = {
    _KEY: {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `rove keys new`. Each operation names the least role it needs: "
        "read, write, admin.",
    }
}
_WITH_KEYS = (401, 403, 429)
_COMMON = (400, 504)
_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
    503: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
}
_SERVERS = [
    {"url": "/", "description": "the gateway"},
    {
        "url": "/shards/{shard}",
        "description": "the shard that owns the user",
        "variables": {"shard": {"default": "0"}},
    },
]


def document(
    endpoints: Iterable[Endpoint] = api.ENDPOINTS, *, with_keys: bool = True
) -> dict[str, Any]:
    """Return the document of `endpoints`; `with_keys`: calls need API keys."""
    endpoints = tuple(endpoints)
    kinds = [kind for endpoint in endpoints for kind in (endpoint.body, endpoint.answer) if kind]
    schemas, components = msgspec.json.schema_components([*kinds, Problem], ref_template=_REF)
    schema_of = dict(zip(map(id, [*kinds, Problem]), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = paths.setdefault(endpoint.path, {})
        path[endpoint.method.lower()] = operation = _operation(endpoint, schema_of)
        if with_keys and endpoint.access != "open":
            operation["security"] = [{_KEY: [endpoint.access]}]
            _add_problems(operation, _WITH_KEYS, schema_of)
    schemes = {"securitySchemes": _SCHEMES} if with_keys else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rove", "version": _VERSION, "description": _DESCRIPTION},
        "servers": _SERVERS[:1],
        "paths": paths,
        "components": {"schemas": components, **schemes},
    }


def _operation(endpoint: Endpoint, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "responses": {str(endpoint.status): _good(endpoint, schema_of)},
    }
    _add_problems(operation, (*endpoint.problems, *_COMMON), schema_of)
    if endpoint.body is not None:
        _add_problems(operation, (408,), schema_of)
    parameters = [_parameter(name, "path") for name in _VARIABLE.findall(endpoint.path)]
    parameters += [_parameter(name, "query") for name in endpoint.query]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": endpoint.body_required,
            "content": {JSON: {"schema": schema_of[id(endpoint.body)]}},
        }
    if endpoint.on_shard:
        operation["servers"] = _SERVERS
    return operation


def _good(endpoint: Endpoint, schema_of: dict[int, dict[str, Any]]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": HTTPStatus(endpoint.status).phrase}
    if endpoint.answer is not None:
        good["content"] = {JSON: {"schema": schema_of[id(endpoint.answer)]}}
    return good


def _add_problems(
    operation: dict[str, Any], statuses: Iterable[int], schema_of: dict[int, dict[str, Any]]
) -> None:
    for status in statuses:
        problem: dict[str, Any] = {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_TYPE: {"schema": schema_of[id(Problem)]}},
        }
        if status in _HEADERS:
            problem["headers"] = _HEADERS[status]
        operation["responses"][str(status)] = problem


def _parameter(name: str, where: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1, "maxLength": 256}
    return {"name": name, "in": where, "required": where == "path", "schema": schema}
