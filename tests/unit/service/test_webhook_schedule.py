import email.utils

import pytest

from instantid_serve.service.webhook_schedule import DELAYS_S, MAX_TRIES, delay_s, read_retry_after

DAY_S = 86_400.0


def test_the_schedule_is_the_one_that_standard_webhooks_recommends():
    hours = [2, 5, 10, 14, 20, 24]

    assert (0, 5, 300, 1800, *(hour * 3600 for hour in hours)) == DELAYS_S


@pytest.mark.parametrize("tries", range(1, MAX_TRIES))
def test_a_wait_differs_from_the_schedule_by_at_most_a_fifth(tries):
    waits = [delay_s(tries, f"whd_{n}") / DELAYS_S[tries] for n in range(200)]

    assert 0.8 <= min(waits) < 0.85
    assert 1.15 < max(waits) <= 1.2


def test_a_delivery_waits_the_same_whoever_asks():
    assert delay_s(3, "whd_1") == delay_s(3, "whd_1") != delay_s(3, "whd_2")


def test_a_receiver_can_make_the_wait_longer_but_not_shorter():
    assert delay_s(1, "whd_1", retry_after_s=100.0) == 100.0
    assert delay_s(4, "whd_1", retry_after_s=100.0) == delay_s(4, "whd_1")


def test_no_receiver_makes_the_wait_longer_than_a_day():
    assert delay_s(1, "whd_1", retry_after_s=1e12) == DAY_S


def test_retry_after_is_read_in_both_its_forms():
    date = email.utils.formatdate(1_000_090, usegmt=True)

    assert read_retry_after("90", 1_000_000.0) == 90.0
    assert read_retry_after(date, 1_000_000.0) == 90.0


@pytest.mark.parametrize("text", ["", "-1", "soon", "1.5", "²", "Wed, 99 Nov 2026 00:00:00 GMT", "\udcff"])
def test_anything_else_is_no_retry_after(text):
    assert read_retry_after(text, 1_000_000.0) is None
