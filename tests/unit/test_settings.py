"""Settings refuse to start wrong, by name, and without repeating a value that may be a secret."""

from __future__ import annotations

import traceback

import pytest

from instantid_serve.errors import ConfigurationError
from instantid_serve.settings import Settings


def test_the_environment_stands_above_the_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INSTANTID_LIMITS__MAX_STEPS", "7")

    settings = Settings.load({"limits": {"max_steps": 50, "max_count": 2}})

    assert (settings.limits.max_steps, settings.limits.max_count) == (7, 2)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"modle": {}}, "modle"),
        ({"model": {"devise": "cpu"}}, "model.devise"),
        ({"dispatcher": {"lease_s": 1.0, "heartbeat_s": 0.5}}, "three heartbeats"),
        ({"results": {"kind": "s3"}}, "results.s3.bucket"),
    ],
)
def test_a_wrong_key_is_refused_by_name(values, named: str):
    with pytest.raises(ConfigurationError, match=named):
        Settings.load(values)


@pytest.mark.parametrize("name", ["INSTANTID_MODELS__DEVICE", "INSTANTID_NONSENSE"])
def test_an_unknown_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "x")

    with pytest.raises(ConfigurationError, match=name):
        Settings.load()


@pytest.mark.parametrize("name", ["INSTANTID_API", "INSTANTID_API__KEYS", "INSTANTID_DATABASE"])
def test_a_variable_that_is_not_json_is_refused_without_its_value(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "very-secret{")

    with pytest.raises(ConfigurationError) as refusal:
        Settings.load()

    assert name.split("_")[1].lower() in refusal.value.detail
    assert "very-secret" not in "".join(traceback.format_exception(refusal.value))


def test_a_database_url_is_not_shown():
    settings = Settings.load({"database": {"url": "postgresql://user:very-secret@host/jobs"}})

    assert "very-secret" not in repr(settings)


def test_fp8_is_refused_where_it_does_not_work():
    with pytest.raises(ConfigurationError, match="bfloat16"):
        Settings.load({"engine": {"fp8_linears": True}})
