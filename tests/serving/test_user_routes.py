"""Users' rights over HTTP: export, erasure, its receipt."""

from __future__ import annotations

import re

import pytest

from rove.client import RoveClient
from rove.client.errors import ClientError
from rove.events import RankRequest
from tests.serving.conftest import Server

pytestmark = pytest.mark.ray


def test_a_user_is_told_everything_and_forgotten_with_a_receipt(server: Server) -> None:
    user_id = server.user_of(1, -2)
    with RoveClient(str(server.http.base_url)) as client:
        decision = client.rank(RankRequest(user_id=user_id, k=2))
        export = client.export_user(user_id)
        assert decision in [one.decision for one in export.decisions]
        assert export.profile == client.user(user_id)
        assert len(export.interactions) == client.user(user_id).num_interactions > 0
        receipt = client.delete_user(user_id)
        assert receipt.num_interactions == len(export.interactions)
        assert client.erasure(receipt.erasure_id, user_id) == receipt
        assert client.erasure(receipt.erasure_id).user_id is None
        with pytest.raises(ClientError, match=re.escape("is not of this user")):
            client.erasure(receipt.erasure_id, server.user_of(1, 0))
        with pytest.raises(ClientError, match=re.escape("nothing is stored of user")):
            client.export_user(user_id)


def test_the_gateway_finds_a_receipt_by_its_id_alone(server: Server) -> None:
    receipts = [
        server.http.delete(f"/v1/users/{server.user_of(shard, -3)}").json() for shard in range(2)
    ]
    for receipt in receipts:
        found = server.http.get(f"/v1/erasures/{receipt['erasure_id']}").json()
        assert found == {**receipt, "user_id": None}
    assert server.http.get("/v1/erasures/never-heard-of").status_code == 404
    assert server.http.get(f"/v1/users/{server.users[0]}/export?after=x").status_code == 400
