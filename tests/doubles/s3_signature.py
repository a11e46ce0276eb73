"""What S3 checks of a signed link and moto does not: the method, the headers it covers, and its time."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit


def accepts(method: str, url: str, headers: Mapping[str, str], secret: str, *, later_s: float = 0.0) -> bool:
    """Whether S3 would serve the request, ``later_s`` seconds from now (AWS Signature Version 4, in the query)."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    signed_at = dt.datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=later_s)
    return _signature(method, url, headers, secret) == query["X-Amz-Signature"] and now <= signed_at + dt.timedelta(
        seconds=int(query["X-Amz-Expires"])
    )


def _signature(method: str, url: str, headers: Mapping[str, str], secret: str) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    sent = {name.lower(): value for name, value in headers.items()} | {"host": parts.netloc}
    covered = query["X-Amz-SignedHeaders"].split(";")
    named = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in query.items() if k != "X-Amz-Signature")
    canonical = [
        method,
        parts.path,
        "&".join(f"{name}={value}" for name, value in named),
        *(f"{name}:{sent.get(name, '')}" for name in covered),
        "",
        ";".join(covered),
        "UNSIGNED-PAYLOAD",
    ]
    scope = query["X-Amz-Credential"].split("/", 1)[1]
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", query["X-Amz-Date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
