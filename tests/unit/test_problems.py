from __future__ import annotations

from collections.abc import Iterator

import pytest

from instantid_serve import errors
from instantid_serve.problems import rebuild_error


def _tree(root: type[errors.InstantIDError]) -> Iterator[type[errors.InstantIDError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:  # a room's private kind of one is told by its public code
            yield from _tree(child)


@pytest.mark.parametrize("error", list(_tree(errors.InstantIDError)), ids=lambda error: error.code)
def test_every_error_of_the_tree_is_rebuilt_from_its_code(error: type[errors.InstantIDError]):
    rebuilt = rebuild_error({"code": error.code, "detail": "why", "boxes": [[1, 2, 3, 4]]}, error.status)

    assert type(rebuilt) is error
    assert (rebuilt.detail, rebuilt.facts) == ("why", {"boxes": [[1, 2, 3, 4]]})


def test_a_jobs_error_is_rebuilt_as_it_was():
    error = errors.FaceTooSmallError("too small", {"side_px": 12})

    rebuilt = rebuild_error(error.to_json())

    assert type(rebuilt) is errors.FaceTooSmallError
    assert rebuilt.to_json() == error.to_json()


def test_a_code_of_a_later_version_keeps_its_name():
    rebuilt = rebuild_error({"code": "quota_exhausted", "detail": "no more"}, 429)

    assert type(rebuilt) is errors.CallerError
    assert rebuilt.facts["code"] == "quota_exhausted"


@pytest.mark.parametrize("facts", ["down for maintenance", 7, ["a"], None])
def test_facts_that_are_none_are_left_out(facts):
    error = rebuild_error({"detail": "no", "facts": facts, "why": "x"}, 502)

    assert isinstance(error, errors.UnavailableError)
    assert error.facts == {"why": "x", "code": "", "status": 502}
