"""Every entry of the corpus gets the answer it must, from one process that stays as it is."""

from __future__ import annotations

import pytest
from corpus import suite
from corpus.entry import Entry
from corpus.run import LIMIT_S, Answer, Report, run_corpus

ENTRIES = suite.entries()
MAX_GROWTH_BYTES = 64 * 2**20
NETWORK_LIMIT_S = 5.0


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run_corpus(tmp_path_factory.mktemp("corpus"), ENTRIES)


@pytest.fixture
def answer(report: Report, request: pytest.FixtureRequest) -> Answer:
    return report.answers[request.getfixturevalue("entry")]


def test_every_number_is_in_the_suite_or_says_why_not():
    run = {entry.number for entry in ENTRIES} | suite.FACES

    assert run | suite.NOT_RUN.keys() == set(suite.NUMBERS)
    assert run.isdisjoint(suite.NOT_RUN)


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_an_entry_is_answered_as_it_must_be(entry: Entry, answer: Answer):
    assert answer.status in entry.statuses, answer.body[:500]
    assert answer.code == entry.code, answer.body[:500]


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_an_entry_is_answered_in_time(entry: Entry, answer: Answer):
    assert answer.took_s < (NETWORK_LIMIT_S if entry.waits else LIMIT_S)


def test_no_entry_ends_the_process(report: Report):
    assert report.runs


def test_no_entry_is_an_unforeseen_error(report: Report):
    assert "unexpected error" not in report.log
    assert "Traceback" not in report.log


def test_the_process_keeps_no_more_memory_than_it_may(report: Report):
    assert report.end_bytes - report.warm_bytes <= MAX_GROWTH_BYTES


def test_no_address_leads_to_what_is_protected(report: Report):
    assert report.reached == 0
