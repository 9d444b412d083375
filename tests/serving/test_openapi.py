"""The OpenAPI document describes what is served, and what is served is as it describes."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import jsonschema
import pytest

from serving import api
from serving.docs import add_docs
from serving.gateway import GatewayApi
from serving.http import Request, Response, Router
from serving.openapi import document
from serving.shard import ShardApi
from tests.serving.conftest import Server


def respond(path: str) -> Response:
    router = Router()
    add_docs(router, with_keys=True)
    return asyncio.run(router.respond(Request("GET", path)))


def operations() -> dict[tuple[str, str], Any]:
    """Return method and path -> operation."""
    return {
        (method.upper(), path): operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_has_exactly_the_gateways_routes() -> None:
    routes = {(endpoint.method, endpoint.path) for endpoint in api.ENDPOINTS}
    assert set(operations()) == routes
    assert len(routes) == len(api.ENDPOINTS)


def test_routes_of_the_shards_say_so() -> None:
    on_shards = {key for key, operation in operations().items() if "servers" in operation}
    expected = {(one.method, one.path) for one in api.ENDPOINTS if one.on_shard}
    assert on_shards == expected
    assert all(hasattr(ShardApi, endpoint.name) for endpoint in api.SHARD_ENDPOINTS)
    assert all(hasattr(GatewayApi, one.name) for one in api.ENDPOINTS if one.on_shard)


def test_every_reference_has_a_schema() -> None:
    schemas = set(document()["components"]["schemas"])
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document()))
    assert set(references) <= schemas
    for name, schema in document()["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("description"), name


def test_the_document_says_which_role_each_operation_needs() -> None:
    (scheme,) = document()["components"]["securitySchemes"]
    for endpoint in api.ENDPOINTS:
        operation = operations()[endpoint.method, endpoint.path]
        if endpoint.access == "open":
            assert "security" not in operation
        else:
            assert operation["security"] == [{scheme: [endpoint.access]}]
            assert {"401", "403", "429"} <= set(operation["responses"])


def test_without_keys_the_document_asks_for_none() -> None:
    text = json.dumps(document(with_keys=False))
    assert not re.search(r"security|\"401\"|\"403\"", text)


def test_path_variables_are_declared() -> None:
    for (_, path), operation in operations().items():
        declared = [
            parameter["name"]
            for parameter in operation.get("parameters", [])
            if parameter["in"] == "path"
        ]
        assert declared == re.findall(r"\{(\w+)\}", path)


def test_limits_of_the_types_are_in_the_document() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["RankRequest"]["properties"]["k"]["minimum"] == 1
    assert schemas["RankRequest"]["additionalProperties"] is False
    assert schemas["Interaction"]["properties"]["user_id"]["maxLength"] == 256
    assert set(schemas["Interaction"]["required"]) == {
        "interaction_id", "user_id", "item_id", "type",
    }  # fmt: skip


def test_the_page_and_its_files_come_from_this_server() -> None:
    page = respond("/docs").body.decode()
    assert "http" not in page
    files = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(files) == 2
    for file in files:
        answer = respond(f"/{file}")
        assert answer.status == 200
        assert len(answer.body) > 10_000
    assert json.loads(respond("/openapi.json").body)["openapi"] == "3.1.0"


def validator(schema: Any) -> jsonschema.Draft202012Validator:
    """Return the validator of a schema of the document."""
    return jsonschema.Draft202012Validator({**schema, "components": document()["components"]})


@pytest.mark.ray
def test_answers_are_as_documented(server: Server) -> None:
    """One answer of each route, and one problem."""
    user_id, item_id = server.user_of(0, 5), server.items[3]
    rank = {"user_id": user_id, "k": 3, "event_id": "documented", "explain": True}
    row = {"interaction_id": "d", "user_id": user_id, "item_id": item_id, "type": "click"}
    event = "/v1/events/documented"
    policy = "/v1/policies/documented"
    (one,) = server.http.get("/v1/releases").json()["releases"]
    release = f"/v1/releases/{one['id']}"
    erased = server.http.delete("/v1/users/nobody").json()
    calls: list[tuple[str, str, str, Any]] = [
        ("POST", "/v1/rank", "/v1/rank", rank),
        ("POST", "/v1/events", "/v1/events", {"interactions": [row]}),
        ("POST", "/v1/events/{event_id}/reward", f"{event}/reward", {"value": 1.0, "slot": 0}),
        ("POST", "/v1/events/{event_id}/activate", f"{event}/activate", None),
        ("GET", "/v1/events/{event_id}", event, None),
        ("PUT", "/v1/items/{item_id}", "/v1/items/documented", {"title": "A CUP", "tags": ["x"]}),
        ("GET", "/v1/items/{item_id}", "/v1/items/documented", None),
        ("POST", "/v1/items:batch", "/v1/items:batch", {"items": []}),
        ("DELETE", "/v1/items/{item_id}", "/v1/items/documented", None),
        ("GET", "/v1/users/{user_id}", f"/v1/users/{user_id}", None),
        ("GET", "/v1/users/{user_id}/export", f"/v1/users/{user_id}/export", None),
        ("DELETE", "/v1/users/{user_id}", "/v1/users/nobody", None),
        ("GET", "/v1/erasures/{erasure_id}", f"/v1/erasures/{erased['erasure_id']}", None),
        ("POST", "/v1/embeddings", "/v1/embeddings", {"input": ["a"]}),
        ("GET", "/v1/policies", "/v1/policies", None),
        ("PUT", "/v1/policies/{name}", policy, {"policy": {"kind": "greedy"}}),
        ("GET", "/v1/policies/{name}", policy, None),
        ("POST", "/v1/policies/{name}:promote", f"{policy}:promote", None),
        ("POST", "/v1/policies/{name}:rollback", f"{policy}:rollback", None),
        ("GET", "/v1/releases", "/v1/releases", None),
        ("POST", "/v1/releases/{release_id}:promote", f"{release}:promote", None),
        ("GET", "/v1/topology", "/v1/topology", None),
        ("GET", "/healthz", "/healthz", None),
        ("GET", "/readyz", "/readyz", None),
    ]
    described = operations()
    for method, template, path, body in calls:
        operation = described.pop((method, template))
        if body is not None:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            validator(schema).validate(body)
        answer = server.http.request(method, path, json=body)
        (good,) = (status for status in operation["responses"] if status < "300")
        assert str(answer.status_code) == good, (path, answer.text)
        if content := operation["responses"][good].get("content"):
            validator(content["application/json"]["schema"]).validate(answer.json())
        else:
            assert answer.content == b""
    only = described.pop(("POST", "/v1/releases/{release_id}:rollback"))  # nothing was before it
    schema = only["responses"]["409"]["content"]["application/problem+json"]["schema"]
    validator(schema).validate(server.http.post(f"{release}:rollback").json())
    assert not described
    problem = server.http.get("/v1/items/never-heard-of")
    responses = operations()["GET", "/v1/items/{item_id}"]["responses"]
    schema = responses["404"]["content"]["application/problem+json"]["schema"]
    validator(schema).validate(problem.json())
