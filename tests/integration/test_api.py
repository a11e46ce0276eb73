"""The application as a whole: refusals, health, and what bad input must not do. On the folder store only."""

import pytest
from bad_images import corpus


@pytest.fixture(scope="module")
def served(serve_with):
    """The application."""
    return serve_with()


def test_no_replica_is_restarted_by_bad_input(served):
    before = {
        name: served.pids(name)
        for name in ("Api", "Dispatcher", "FaceAnalyzer", "Generator", "Housekeeper", "Publisher")
    }
    bodies = [b"", b"{", b"[" * 50_000, b'{"prompt": NaN}', b'{"prompt": "\\ud800", "image": ""}']

    with served.http() as http:
        statuses = {
            http.post("/v1/generations", content=body, headers={"Content-Type": "application/json"}).status_code
            for body in bodies
        }
        for data, code in corpus().values():
            response = http.post("/v1/generations", data={"prompt": "x", "steps": 1}, files={"image": data})
            assert response.status_code == (202 if code is None else 413 if code == "image_too_large" else 422)

    assert statuses == {400}
    assert {name: served.pids(name) for name in before} == before


def test_a_body_over_the_limit_is_a_problem_with_and_without_a_declared_length(served):
    def pieces():
        for _ in range(160):
            yield b" " * 100_000

    with served.http() as http:
        headers = {"Content-Type": "application/json"}
        chunked = http.post("/v1/generations", content=pieces(), headers=headers)
        declared = http.post("/v1/generations", content=b" " * 16_000_000, headers=headers)

    for response in (chunked, declared):
        assert response.status_code == 413
        assert response.json()["code"] == "body_too_large"


def test_an_answer_carries_one_request_id_and_it_is_the_callers(served):
    with served.http() as http:
        response = http.get("/v1/generations/gen_nobody", headers={"x-request-id": "trace-7"})

    assert response.headers.get_list("x-request-id") == ["trace-7"]
    assert response.json()["request_id"] == "trace-7"


def test_metrics_and_models_are_served(served):
    with served.http() as http:
        assert "instantid_jobs" in http.get("/metrics").text
        assert http.get("/v1/models").json()["data"][0]["id"] == "miniature"
        assert http.get("/healthz").status_code == 200
