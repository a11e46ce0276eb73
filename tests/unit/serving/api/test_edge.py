import re
import traceback

import httpx2
import pytest
from doubles.api_callers import KEYS, assert_problem

from instantid_serve.errors import OverloadedError
from instantid_serve.serving.api.edge import Edge
from instantid_serve.serving.api.problems import InternalError

JSON = {"Content-Type": "application/json"}


async def pieces(count, size=100_000):
    """A chunked body: its length is declared nowhere."""
    for _ in range(count):
        yield b" " * size


async def test_a_body_whose_declared_length_is_too_large_is_not_read(client):
    read = []

    async def body():
        read.append(1)
        yield b"{}"

    response = await client.post("/v1/generations", content=body(), headers={**JSON, "Content-Length": "15000001"})

    assert_problem(response, 413, "body_too_large")
    assert read == []


async def test_a_chunked_body_is_cut_off_at_the_limit(client):
    response = await client.post("/v1/generations", content=pieces(151), headers=JSON)

    assert_problem(response, 413, "body_too_large")
    assert response.json()["max_body_bytes"] == 15_000_000


async def test_a_body_of_exactly_the_limit_is_read(client):
    response = await client.post("/v1/generations", content=pieces(150), headers=JSON)

    assert_problem(response, 400, "malformed_body")


async def test_a_caller_who_leaves_while_sending_is_no_failure_of_the_service(app, caplog):
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {KEYS['acme']}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/generations", "query_string": b"", "headers": headers}
    sent = []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)

    assert sent == []
    assert caplog.records == []


async def test_a_body_without_a_key_is_not_read(anyone):
    response = await anyone.post("/v1/generations", content=pieces(1000), headers=JSON)

    assert_problem(response, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/v1/generations/gen_x", "/openapi.json"])
async def test_every_answer_has_the_security_headers(client, path):
    headers = (await client.get(path)).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


async def test_an_unknown_path_and_a_wrong_method_are_problems(client):
    assert_problem(await client.get("/nowhere"), 404, "not_found")
    assert_problem(await client.delete("/v1/models"), 405, "method_not_allowed")
    assert_problem(await client.get("/docs"), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/models", "GET"),
        ("/v1/generations", "GET, POST"),
        ("/v1/webhooks/whk_1", "DELETE, GET, PATCH"),
        ("/v1/webhooks/secret", "GET"),
    ],
)
async def test_a_wrong_method_is_told_all_the_right_ones(client, path, methods):
    response = await client.put(path)

    assert response.headers["allow"] == methods


async def test_method_override_headers_change_nothing(client):
    response = await client.post("/v1/models", headers={"X-HTTP-Method-Override": "GET"})

    assert_problem(response, 405, "method_not_allowed")


async def test_an_unforeseen_error_is_a_500_that_tells_nothing_but_the_request_id(client, app, caplog):
    class Broken:
        def get(self, *_):
            raise RuntimeError("password=hunter2 in /srv/secret/path")

    object.__setattr__(app.state.context, "jobs", Broken())

    response = await client.get("/v1/generations/gen_x", headers={"x-request-id": "trace-7"})

    assert_problem(response, 500, "internal")
    assert response.json()["request_id"] == "trace-7"
    assert not re.search("hunter2|secret|RuntimeError|Traceback", response.text)
    assert "trace-7" in caplog.text


async def test_an_error_in_the_middle_of_an_answer_goes_on_without_its_words(caplog):
    async def breaks(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("password=hunter2")

    async def send(_message):
        pass

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    edge = Edge(breaks, max_body_bytes=1, observe=lambda *_: None)

    with pytest.raises(InternalError) as caught:
        await edge(scope, None, send)

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "unexpected error" in caplog.text


async def test_an_unavailable_part_says_when_to_come_back(client, app):
    class Full:
        def get(self, *_):
            raise OverloadedError("too much work", {"retry_after_s": 9})

    object.__setattr__(app.state.context, "jobs", Full())

    response = await client.get("/v1/generations/gen_x")

    assert_problem(response, 503, "overloaded")
    assert response.headers["retry-after"] == "9"
    assert response.json()["retryable"] is True


@pytest.mark.parametrize("sent", ["a" * 65, "<script>", "a b", ""])
async def test_a_request_id_that_is_not_plain_is_replaced(client, sent):
    response = await client.get("/nowhere", headers={"x-request-id": sent})

    assert re.fullmatch("[0-9a-f]{32}", response.json()["request_id"])


async def test_the_authorization_header_is_never_logged_or_told(app, caplog):
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as http:
        response = await http.get("/v1/models", headers={"Authorization": f"Bearer {KEYS['acme']}x"})

    assert KEYS["acme"] not in response.text
    assert KEYS["acme"] not in caplog.text
