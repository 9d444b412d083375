"""A server with API keys: every route asks for one, nothing logs one, and the API is as documented.

One server for the whole file, with one shard; it is the last test that kills the shard.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
import yaml
from msgspec import Struct

from rove.access import ROLES
from serving import api
from serving.api import Endpoint
from serving.main import free_port
from tests.serving.conftest import Server, command, start_server
from tests.serving.test_serving_crash import shard_process

pytestmark = pytest.mark.ray

PROBLEM = "application/problem+json"
SHARD = "/shards/0"
RAY_TOKEN = Path.home() / ".ray" / "auth_token"
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
FUZZ_S = 30
READY_S = 240.0
# What is not wrong: 413 for what is longer than the schema says, and rows judged one by one.
SETTINGS = """
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.expected-statuses = ["4xx"]
[[operations]]
include-name = ["POST /v1/events", "POST /v1/items:batch"]
checks.negative_data_rejection.enabled = false
"""


class Keyed(Struct, kw_only=True):
    """The server, its keys by role, and where its configuration and its log are."""

    url: str
    keys: dict[str, str]
    config: Path
    log: Path
    server: Server

    def ask(
        self,
        method: str,
        path: str,
        role: str | None,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        content: bytes | Iterable[bytes] | None = None,
        json: object = None,
    ) -> httpx.Response:
        """Ask with the key of a role, with a text that is no key, or with none."""
        key = None if role is None else self.keys.get(role, role)
        shown = [] if key is None else [(b"authorization", f"Bearer {key}".encode("latin-1"))]
        return self.server.http.request(
            method,
            path,
            headers=[*((name.encode(), value.encode()) for name, value in headers.items()), *shown],
            content=content,
            json=json,
        )


@pytest.fixture(scope="module")
def keyed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """`rove serve` with a key of each role."""
    folder = tmp_path_factory.mktemp("keyed")
    tree = yaml.safe_load(server.config_path.read_text("utf-8"))
    tree["store"]["url"] = f"sqlite:///{folder / 'ledger'}"
    tree["serving"].update(port=free_port(), shards=1)
    tree["access"] = {"keys": str(folder / "keys.json")}
    config, log = folder / "rove.yaml", folder / "serve.log"
    config.write_text(yaml.safe_dump(tree), "utf-8")
    keys = {str(role): new_key(config, role) for role in ROLES}
    process = start_server(config, log)
    url = f"http://127.0.0.1:{tree['serving']['port']}"
    try:
        wait_until_served(process, log)
        http = httpx.Client(base_url=url, timeout=30.0)
        running = Server(
            config_path=config, config=server.config, process=process, log=log, http=http,
            users=server.users, items=server.items,
        )  # fmt: skip
        yield Keyed(url=url, keys=keys, config=config, log=log, server=running)
        http.close()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def new_key(config: Path, role: str) -> str:
    done = command("rove", "keys", "new", str(config), f"{role}er", "--role", role)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_until_served(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while "Stop with Ctrl-C" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def routes() -> Iterator[tuple[str, str, str]]:
    """Yield method, path and who may call it, of every route there is."""
    for prefix, endpoints in (("", api.ENDPOINTS), (SHARD, api.SHARD_ENDPOINTS)):
        for endpoint in endpoints:
            yield endpoint.method, prefix + filled(endpoint), endpoint.access
    for path in ("/docs", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/openapi.json"):
        yield "GET", path, "read"
    yield "POST", "/personalizer/v1.1-preview.3/rank", "write"
    for path in ("/nothing", f"{SHARD}/nothing", f"{SHARD}/docs"):
        yield "GET", path, "read"
    yield "POST", f"{SHARD}/many", "internal"


def filled(endpoint: Endpoint) -> str:
    return re.sub(r"\{\w+\}", "x", endpoint.path)


def test_every_route_is_refused_without_with_a_wrong_and_with_a_too_weak_key(keyed: Keyed) -> None:
    """Only the check of life is open."""
    wrong = keyed.keys["admin"][:-1] + ("0" if keyed.keys["admin"][-1] != "0" else "1")
    weaker = {"read": (), "write": ("read",), "admin": ("read", "write"), "open": ()}
    for method, path, access in routes():
        if access == "open":
            assert keyed.ask(method, path, None).status_code == 200
            continue
        for key in (None, "x", wrong, *(keyed.keys.values() if access == "internal" else ())):
            answer = keyed.ask(method, path, key)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.headers["www-authenticate"] == 'Bearer realm="rove"'
            assert answer.headers["content-type"] == PROBLEM
        for role in weaker.get(access, ()):
            answer = keyed.ask(method, path, role)
            assert answer.status_code == 403, (method, path, answer.text)
            assert answer.headers["content-type"] == PROBLEM
        if access in ROLES:
            assert keyed.ask(method, path, access).status_code not in (401, 403), (method, path)


def test_a_key_is_let_in_and_revoked_while_the_server_runs(keyed: Keyed) -> None:
    key = new_key(keyed.config, "read")
    time.sleep(1.05)
    paths = ("/v1/topology", f"{SHARD}/v1/topology")
    assert [keyed.ask("GET", path, key).status_code for path in paths] == [200, 200]
    done = command("rove", "keys", "revoke", str(keyed.config), key.split("_")[1])
    assert done.returncode == 0, done.stderr
    time.sleep(1.05)
    assert [keyed.ask("GET", path, key).status_code for path in paths] == [401, 401]


@pytest.mark.parametrize("prefix", ["", SHARD])
def test_limits_hold_at_the_gateway_and_at_the_shard(keyed: Keyed, prefix: str) -> None:
    """Pieces without a length, headers, and the client's own time limit."""
    path = f"{prefix}/v1/rank"
    pieces = iter([b" " * 500_000] * 6)
    assert keyed.ask("POST", path, "write", content=pieces).status_code == 413
    long = {"x-long": "x" * 100_000}
    assert 400 <= keyed.ask("POST", path, "write", headers=long).status_code < 500
    body = {"user_id": "a", "k": 1}
    hurried = keyed.ask("POST", path, "write", json=body, headers={"x-request-timeout-s": "1e-6"})
    assert hurried.status_code == 504 and hurried.headers["content-type"] == PROBLEM
    patient = keyed.ask("POST", path, "write", json=body, headers={"x-request-timeout-s": "20"})
    assert patient.status_code == 201


def test_rays_dashboard_asks_for_rays_token_and_is_reached_from_here_only(keyed: Keyed) -> None:
    """Jobs run any code, so who may submit one may do everything."""
    found = re.search(r"dashboard +http://([\d.]+):(\d+)", keyed.log.read_text())
    assert found is not None and found[1] == "127.0.0.1"
    url = f"http://{found[1]}:{found[2]}"
    for path in ("/api/version", "/api/jobs/", "/api/cluster_status", "/api/serve/applications/"):
        assert httpx.get(url + path, timeout=30.0).status_code == 401, path
        headers = {"authorization": f"Bearer {RAY_TOKEN.read_text().strip()}"}
        assert httpx.get(url + path, headers=headers, timeout=30.0).status_code == 200, path
    submission = httpx.post(f"{url}/api/jobs/", json={"entrypoint": "true"}, timeout=30.0)
    assert submission.status_code == 401
    address = socket.gethostbyname(socket.gethostname())
    if not address.startswith("127."):
        with pytest.raises(ConnectionRefusedError, match=re.escape("refused")):
            socket.create_connection((address, int(found[2])))


def test_schemathesis_finds_no_server_error_and_nothing_that_is_not_documented(
    keyed: Keyed, tmp_path: Path
) -> None:
    settings = tmp_path / "schemathesis.toml"
    settings.write_text(SETTINGS)
    done = subprocess.run(
        [
            *(SCHEMATHESIS, "--config-file", settings, "run", f"{keyed.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {keyed.keys['admin']}"),
            *("--max-time", f"{FUZZ_S}", "--max-examples", "20", "--seed", "1"),
            *("--generation-database", "none", "--no-color", "--warnings", "off"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=10 * FUZZ_S,
    )
    lines = [line[:300] for line in done.stdout.splitlines()]
    assert done.returncode == 0, "\n".join(lines[-120:])
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated is not None and int(generated[1]) > 200, "\n".join(lines[-30:])


def test_no_secret_is_in_any_log_or_answer(keyed: Keyed) -> None:
    """Not of a key, and not the gateway's token, also where calls fail and the shard is killed."""
    cut = keyed.keys["write"][:-1]
    for prefix in ("", SHARD):
        for role in (*ROLES, cut, f"{cut}\xe9"):
            for path, body in (("/v1/rank", b"{"), ("/v1/items/%ff", b""), ("/v1/users/x", b"")):
                for method in ("POST", "GET", "PUT", "DELETE"):
                    keyed.ask(method, prefix + path, role, content=body)
    os.kill(shard_process(keyed.server, 0), signal.SIGKILL)
    deadline = time.monotonic() + READY_S
    statuses: list[int] = []
    while 201 not in statuses[-1:]:
        assert time.monotonic() < deadline, statuses
        try:
            answer = keyed.ask("POST", "/v1/rank", "write", json={"user_id": "a", "k": 1})
            statuses.append(answer.status_code)
        except httpx.TransportError:
            statuses.append(0)
    secrets = [key.rpartition("_")[2][:-1].encode() for key in keyed.keys.values()]
    files = [keyed.log, *logs_of(keyed.server.process.pid)]
    assert any(b"by handle" in file.read_bytes() for file in files), "the fallback was not tried"
    for file in files:
        text = file.read_bytes()
        assert not any(secret in text for secret in secrets), file
        assert not re.search(rb"[Bb]earer +[\w-]{20}", text), file


def logs_of(pid: int) -> list[Path]:
    """Return all files of the Ray session that a server started."""
    listing = ["ps", "-ww", "--sid", str(pid), "-o", "args="]
    arguments = subprocess.run(listing, capture_output=True, text=True).stdout
    (session,) = set(re.findall(rf"(/\S*/session_[\d_-]+_{pid})\b", arguments))
    return [path for path in Path(session, "logs").rglob("*") if path.is_file()]
