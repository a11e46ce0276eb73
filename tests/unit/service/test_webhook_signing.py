import base64
import datetime as dt

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from instantid_serve.service import webhook_signing

BODY = '{"type":"generation.succeeded"}'


def now():
    return dt.datetime.now(tz=dt.UTC)


def signed(*secrets, at=None):
    return webhook_signing.headers(secrets, "msg_1", at or now(), BODY)


def test_a_secret_is_of_32_random_bytes():
    first, second = webhook_signing.new_secret(), webhook_signing.new_secret()

    assert first != second
    assert first.startswith("whsec_")
    assert len(base64.b64decode(first.removeprefix("whsec_"), validate=True)) == 32


def test_the_receivers_library_finds_the_signature_right():
    secret = webhook_signing.new_secret()

    assert Webhook(secret).verify(BODY, signed(secret)) == {"type": "generation.succeeded"}


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": str(int(now().timestamp()) - 60)},
        {"webhook-signature": "v1,AAAA"},
    ],
)
def test_a_header_that_was_changed_on_the_way_is_refused(change):
    secret = webhook_signing.new_secret()

    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, signed(secret) | change)


def test_a_body_that_was_changed_on_the_way_is_refused():
    secret = webhook_signing.new_secret()

    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + " ", signed(secret))


def test_a_message_that_is_sent_again_after_more_than_five_minutes_is_refused():
    secret = webhook_signing.new_secret()

    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(secret).verify(BODY, signed(secret, at=now() - dt.timedelta(minutes=6)))


def test_two_secrets_sign_side_by_side():
    old, new = webhook_signing.new_secret(), webhook_signing.new_secret()

    headers = signed(new, old)

    assert [Webhook(secret).verify(BODY, headers, json_parse=False) for secret in (old, new)] == [None, None]
    assert len(headers["webhook-signature"].split()) == 2


def test_a_time_of_another_zone_is_never_signed():
    with pytest.raises(ValueError, match="UTC"):
        signed(webhook_signing.new_secret(), at=now().astimezone(dt.timezone(dt.timedelta(hours=1))))


def test_a_rotated_secret_signs_until_its_overlap_ends():
    first = webhook_signing.first()

    rotated = webhook_signing.rotated(first, now_s=1000.0, overlap_s=60.0)

    assert [entry["secret"] for entry in webhook_signing.live(rotated, 1059.0)] == [
        rotated[0]["secret"],
        first[0]["secret"],
    ]
    assert webhook_signing.live(rotated, 1061.0) == rotated[:1]


def test_a_rotation_does_not_lengthen_an_earlier_overlap():
    once = webhook_signing.rotated(webhook_signing.first(), now_s=1000.0, overlap_s=60.0)

    twice = webhook_signing.rotated(once, now_s=1010.0, overlap_s=600.0)

    assert [entry["expires_at"] for entry in twice] == [None, 1610.0, 1060.0]
