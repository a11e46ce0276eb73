import base64

import pytest

from instantid_serve.redaction import names_a_secret, redacted


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key iid_live_4fT9aZ_0aB3dEfGhIjK is wrong", "0aB3dEfGhIjK"),
        ("signed with whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=", "MfKQ9r8"),
        ("Authorization: Bearer canary.key-1", "canary"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
        ("sent bearer canary", "canary"),
        ("GET /b/k?X-Amz-Credential=AKIACANARY%2F2025&X-Amz-Date=1&X-Amz-Signature=ab12cd HTTP/1.1", "AKIACANARY"),
        ("GET /b/k?X-Amz-Credential=AKIACANARY%2F2025&X-Amz-Date=1&X-Amz-Signature=ab12cd HTTP/1.1", "ab12cd"),
        ("https://h/k?x-amz-security-token=canary&y=1", "canary"),
        ("https://h/k?sv=1&sig=canary%3D", "canary"),
        ("postgresql+psycopg://user:canary@db:5432/jobs", "canary"),
        ("redis://:canary@cache:6379/0", "canary"),
        ("postgresql://user:can@ary@db/jobs", "ary@"),
        ("photo " + base64.b64encode(b"canary" * 40).decode(), "Y2FuYXJ5"),
        ("photo " + base64.encodebytes(b"canary" * 40).decode(), "Y2FuYXJ5"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text, secret):
    assert secret in text

    assert secret not in redacted(text)
    assert "[redacted]" in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "gen_06b3k1v0qd7m9c2e4h6j8n0p5r.0.1f2e3d4c",
        "acme/gen_06b3k1v0qd7m9c2e4h6j8n0p5r/1/0.png",
        "/v1/generations/{job_id}",
        "http://127.0.0.1:8000/readyz?verbose=1",
        "/opt/venv/lib/python3.11/site-packages/ray/serve/_private/replica.py:1465",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
)
def test_ids_keys_of_objects_routes_and_files_stay(text):
    assert redacted(text) == text


def test_text_is_cut_after_it_was_redacted():
    assert len(redacted("words " * 10_000)) < 5000


@pytest.mark.parametrize(("name", "secret"), [("Authorization", True), ("negative_prompt", True), ("seconds", False)])
def test_some_names_say_that_what_they_hold_is_not_to_be_written(name, secret):
    assert names_a_secret(name) is secret
