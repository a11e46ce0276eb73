import json

import openapi_spec_validator
import pytest

from instantid_serve.serving.api.application import api_document
from instantid_serve.settings import LimitSettings
from scripts.openapi import FILE, differences


@pytest.fixture
def kept():
    return json.loads(FILE.read_text())


def test_the_kept_document_is_what_the_application_says(kept):
    assert list(differences(kept, api_document(LimitSettings()))) == []


def test_the_kept_document_is_openapi_3_1(kept):
    openapi_spec_validator.OpenAPIV31SpecValidator(kept).validate()

    assert kept["openapi"].startswith("3.1.")


def test_the_environment_does_not_change_it(kept, monkeypatch):
    monkeypatch.setenv("INSTANTID_LIMITS__MAX_STEPS", "7")

    assert list(differences(kept, api_document(LimitSettings()))) == []


@pytest.mark.parametrize(
    ("kept", "said", "pointers"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["/a"]),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, ["/a/b", "/a/c"]),
        ({"/v1": [1, 2]}, {"/v1": [1, 3]}, ["/~1v1/1"]),
        ({"a": [1]}, {"a": [1, 2]}, ["/a"]),
        ({"a": None}, {}, ["/a"]),
    ],
)
def test_differences_are_named(kept, said, pointers):
    assert list(differences(kept, said)) == pointers
