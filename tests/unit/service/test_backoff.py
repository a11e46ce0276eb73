import pytest

from instantid_serve.service.backoff import backoff_s


def test_waits_double_up_to_five_seconds():
    waits = [backoff_s(failures) for failures in range(1, 9)]

    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_an_outage_of_a_whole_day_is_waited_out():
    assert backoff_s(100_000) == 5.0
