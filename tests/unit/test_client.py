"""The SDK against a real HTTP server on loopback that answers what each test scripts."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from doubles.scripted_service import DONE, Answer, Service, job_json, scripted_service

import instantid_serve
from instantid_serve import errors
from instantid_serve.client import Client, Retries
from instantid_serve.told_job import Job

QUICK = Retries(attempts=3, first_delay_s=0.001, longest_delay_s=0.002, seed=1)
PNG = b"\x89PNG\r\n\x1a\n and the rest"


@pytest.fixture
def service() -> Iterator[Service]:
    with scripted_service() as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, "the-key", timeout_s=5.0, retries=QUICK) as opened:
        yield opened


def test_a_submission_carries_the_key_the_photo_and_every_parameter(service: Service, client: Client):
    service.answers = [Answer.of(job_json(), 202)]

    job = client.submit(PNG, "an oil portrait", seed=7, guidance_scale=1.5, face="largest")

    assert job.id == "gen_1"
    (asked,) = service.asked
    assert (asked.method, asked.path) == ("POST", "/v1/generations")
    assert asked.headers["Authorization"] == "Bearer the-key"
    assert asked.headers["Idempotency-Key"]
    assert b'name="image"' in asked.body
    assert PNG in asked.body
    for name, value in [("prompt", "an oil portrait"), ("seed", "7"), ("guidance_scale", "1.5"), ("face", "largest")]:
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in asked.body


def test_a_photo_can_be_named_by_its_path(service: Service, client: Client, tmp_path: Path):
    service.answers = [Answer.of(job_json(), 202)]
    photo = tmp_path / "me.png"
    photo.write_bytes(PNG)

    client.submit(str(photo), "a portrait")

    assert PNG in service.asked[0].body
    assert b"Content-Type: image/png" in service.asked[0].body


def test_two_submissions_have_two_idempotency_keys(service: Service, client: Client):
    service.answers = [Answer.of(job_json(), 202)]

    client.submit(PNG, "a")
    client.submit(PNG, "a")

    assert len({asked.headers["Idempotency-Key"] for asked in service.asked}) == 2


def test_waiting_tells_every_state_and_returns_the_last(service: Service, client: Client):
    half = job_json(status="running", progress={"step": 10, "steps": 20})
    service.answers = [Answer.of(job_json()), Answer.of(half), Answer.of(DONE)]
    seen: list[Job] = []

    job = client.wait("gen_1", 10.0, seen.append)

    assert [(state.status, state.step) for state in seen] == [("queued", 0), ("running", 10), ("succeeded", 20)]
    assert job.images[0].seed == 7
    assert job.images[0].stats == {"denoise_s": 1.5}
    assert job.failure is None


def test_waiting_ends_at_its_timeout_and_names_the_job(service: Service, client: Client):
    service.answers = [Answer.of(job_json())]

    with pytest.raises(errors.DeadlineError) as raised:
        client.wait("gen_1", timeout_s=0.2)

    assert raised.value.facts == {"job": "gen_1"}


def test_waiting_outlives_an_outage_longer_than_the_retries(service: Service, client: Client):
    service.answers = [*[Answer(hang_up=True) for _ in range(2 * QUICK.attempts)], Answer.of(DONE)]

    job = client.wait("gen_1", 10.0)

    assert job.status == "succeeded"


def test_a_failed_job_is_returned_with_the_error_it_stands_for(service: Service, client: Client):
    problem = {"code": "face_not_found", "detail": "there is no face", "status": 422, "advice": "look at the camera"}
    service.answers = [Answer.of(job_json(status="failed", done=True, error=problem))]

    failure = client.wait("gen_1").failure

    assert isinstance(failure, errors.FaceNotFoundError)
    assert failure.detail == "there is no face"
    assert failure.facts == {"advice": "look at the camera"}


@pytest.mark.parametrize(("status", "error"), [("canceled", errors.CanceledError), ("expired", errors.DeadlineError)])
def test_a_stopped_job_stands_for_its_error(status, error):
    job = Job.from_json(job_json(status=status, done=True))

    assert isinstance(job.failure, error)


def test_a_picture_is_fetched_whole(service: Service, client: Client):
    service.answers = [Answer(200, PNG, "image/png")]

    assert client.fetch("gen_1", 0) == PNG
    assert service.asked[0].path == "/v1/generations/gen_1/images/0"


def test_cancel_asks_for_it(service: Service, client: Client):
    service.answers = [Answer.of(job_json(status="canceled", done=True))]

    assert client.cancel("gen_1").status == "canceled"
    assert (service.asked[0].method, service.asked[0].path) == ("POST", "/v1/generations/gen_1/cancel")


def test_an_id_never_leaves_its_place_in_the_path(service: Service, client: Client):
    service.answers = [Answer.of({"code": "not_found", "detail": "no such job"}, 404)]

    with pytest.raises(errors.NotFoundError):
        client.get("../keys?x=1")

    assert service.asked[0].path == "/v1/generations/..%2Fkeys%3Fx%3D1"


def test_ready_follows_the_service(service: Service, client: Client):
    service.answers = [Answer.of({}, 503), Answer.of({})]

    assert not client.ready()
    assert client.ready()


def test_a_dead_address_is_not_ready_and_unavailable(service: Service):
    service.answers = [Answer()]
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: a connection is refused
        url = f"http://127.0.0.1:{held.getsockname()[1]}"

        with Client(url, "k", 2.0, QUICK) as client:
            assert not client.ready()
            with pytest.raises(errors.UnavailableError, match="cannot connect"):
                client.get("gen_1")


def test_an_address_without_a_scheme_is_the_callers_fault():
    with Client("localhost:1", "k", 2.0, QUICK) as client, pytest.raises(errors.CallerError, match="not an http"):
        client.get("gen_1")


@pytest.mark.parametrize("key", ["the\nkey", "the-kéy"])
def test_a_key_that_no_header_carries_is_refused_without_showing_it(service: Service, key: str):
    with pytest.raises(errors.CallerError) as raised, Client(service.url, key, 2.0, QUICK) as client:
        client.get("gen_1")

    assert key not in str(raised.value)


def test_without_a_key_none_is_sent(service: Service):
    service.answers = [Answer.of(DONE)]

    with Client(service.url, "", 2.0, QUICK) as client:
        client.get("gen_1")

    assert "Authorization" not in service.asked[0].headers


def test_a_get_is_repeated_through_dropped_connections_and_503s(service: Service, client: Client):
    busy = {"code": "database_unavailable", "detail": "try again", "status": 503}
    service.answers = [Answer(hang_up=True), Answer.of(busy, 503), Answer.of(DONE)]

    assert client.get("gen_1").done
    assert len(service.asked) == 3


def test_repeating_ends_after_the_attempts(service: Service, client: Client):
    service.answers = [Answer(hang_up=True)]

    with pytest.raises(errors.UnavailableError):
        client.get("gen_1")

    assert len(service.asked) == QUICK.attempts


def test_repeating_takes_no_longer_than_the_call_may(service: Service):
    service.answers = [Answer(503, after_s=0.8), Answer(after_s=2.0)]
    started = time.monotonic()

    with pytest.raises(errors.UnavailableError), Client(service.url, "k", 1.0, QUICK) as client:
        client.get("gen_1")

    assert time.monotonic() - started < 1.5


def test_a_submission_that_may_have_arrived_is_not_repeated(service: Service, client: Client):
    service.answers = [Answer(hang_up=True)]

    with pytest.raises(errors.UnavailableError):
        client.submit(PNG, "a portrait")

    assert len(service.asked) == 1


def test_a_caller_error_is_not_repeated(service: Service, client: Client):
    service.answers = [Answer.of({"code": "unauthorized", "detail": "no"}, 401)]

    with pytest.raises(errors.UnauthorizedError):
        client.get("gen_1")

    assert len(service.asked) == 1


def test_a_retry_after_longer_than_the_timeout_is_handed_to_the_caller(service: Service, client: Client):
    service.answers = [Answer.of({"code": "overloaded", "detail": "busy"}, 503, Retry_After="60")]

    with pytest.raises(errors.OverloadedError) as raised:
        client.get("gen_1")

    assert raised.value.facts["retry_after_s"] == 60
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("status", "error"), [(502, errors.UnavailableError), (403, errors.CallerError), (500, errors.ServiceError)]
)
def test_an_answer_that_is_not_the_services_becomes_the_nearest_error(service: Service, client: Client, status, error):
    service.answers = [Answer(status, b"<html>nginx</html>", "text/html")]

    with pytest.raises(error, match=f"HTTP {status}"):
        client.get("gen_1")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"id": 1}'])
def test_a_success_that_is_no_job_is_refused(service: Service, client: Client, body: bytes):
    service.answers = [Answer(200, body)]

    with pytest.raises(errors.ServiceError, match="is this the address"):
        client.get("gen_1")


def test_the_package_offers_the_client_and_loads_it_late():
    script = "import sys, instantid_serve; assert 'instantid_serve.client' not in sys.modules; instantid_serve.Client"

    subprocess.run([sys.executable, "-c", script], check=True)

    assert instantid_serve.Client is Client
    with pytest.raises(AttributeError):
        _ = instantid_serve.no_such_name
