"""Requests made up from the OpenAPI document, right and wrong ones: every answer is one that the document names."""

from __future__ import annotations

import pytest
from corpus.fuzz import Fuzzed, fuzz

EXAMPLES, SEED = 40, 20261125
OPERATIONS = 50  # all but the stream of events


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Fuzzed:
    return fuzz(tmp_path_factory.mktemp("fuzz"), examples=EXAMPLES, seed=SEED)


def test_every_check_holds_for_every_answer(fuzzed: Fuzzed):
    assert fuzzed.passed, fuzzed.output[-20_000:]


def test_every_operation_is_tried(fuzzed: Fuzzed):
    assert fuzzed.operations == OPERATIONS
    assert fuzzed.cases > OPERATIONS * EXAMPLES


def test_every_operation_is_answered_as_asked_now_and_then(fuzzed: Fuzzed):
    succeeded = {(method, route) for method, route, status in fuzzed.answers if status in range(200, 300)}

    assert len(succeeded) == OPERATIONS, fuzzed.answers


def test_no_answer_is_a_fault_of_the_service(fuzzed: Fuzzed):
    assert not [answer for answer in fuzzed.answers if answer[2] >= 500]


def test_nothing_unforeseen_happens(fuzzed: Fuzzed):
    assert fuzzed.api_runs
    assert "unexpected error" not in fuzzed.api_log
    assert "Traceback" not in fuzzed.api_log
