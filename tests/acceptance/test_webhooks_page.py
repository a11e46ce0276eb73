"""The receiver that docs/webhooks.md shows, run against what this service signs."""

import datetime as dt
import re
from pathlib import Path

import pytest

from instantid_serve.service import outbox, webhook_schedule, webhook_signing

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
BODY = '{"type":"generation.succeeded","data":{"id":"gen_1"}}'


@pytest.fixture
def receive():
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)  # noqa: S102 - the page's own code
    return names["receive"]


def signed(secret):
    return webhook_signing.headers([secret], "msg_1", dt.datetime.now(tz=dt.UTC), BODY)


def test_the_receiver_of_the_page_takes_a_message_once(receive, capsys):
    secret = webhook_signing.new_secret()

    answers = [receive(secret, signed(secret), BODY.encode()) for _ in range(2)]

    assert answers == [204, 204]
    assert capsys.readouterr().out == "generation.succeeded gen_1\n"


def test_the_receiver_of_the_page_refuses_what_another_signed(receive):
    assert receive(webhook_signing.new_secret(), signed(webhook_signing.new_secret()), BODY.encode()) == 401


def test_the_page_names_every_type():
    named = set(re.findall(r"^\| `([a-z.]+)` \|", PAGE, re.MULTILINE))

    assert named == {*outbox.TYPES, "webhook.test"}


def test_the_page_tells_the_schedule():
    hours = [delay / 3600 for delay in webhook_schedule.DELAYS_S[4:]]

    assert webhook_schedule.DELAYS_S[:4] == (0, 5, 5 * 60, 30 * 60)
    assert hours == [2, 5, 10, 14, 20, 24]
    assert "5 seconds, 5 minutes, 30 minutes, 2, 5, 10, 14, 20 and 24 hours" in PAGE
