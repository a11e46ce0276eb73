"""Who calls the API in tests, and what every refusal must look like."""

KEYS = {"acme": "key-of-acme", "other": "key-of-other"}  # tenant -> API key


def assert_problem(response, status, code):
    """The answer is a problem description of that status and code, and complete."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["code"] == code
    assert body["status"] == status
    assert {"type", "title", "detail", "retryable", "request_id"} <= body.keys()


def fields_of(response):
    """The JSON pointers that a refusal names."""
    return {error["pointer"] for error in response.json()["errors"]}
