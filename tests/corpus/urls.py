"""Entries 133 to 171: addresses of photos that must not be reached, and servers that are not to be trusted."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

from corpus.entry import Entry, generation, refused, small_photo, taken
from doubles.loopback import Answerer, always, forever, http

# The only private address that the service under test may reach; 127.0.0.1 is what its rules protect.
HOSTILE, PROTECTED = "127.0.0.2", "127.0.0.1"
NAMES = {
    "hostile.example": [[HOSTILE]],
    "flips.example": [[HOSTILE], [PROTECTED]],
    "public.example": [["93.184.216.34"]],
    "localhost": [["127.0.0.1", "::1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "ray-head": [["10.0.3.7"]],
    "kubernetes.default.svc": [["10.96.0.1"]],
    "127.0.0.1.nip.example": [["127.0.0.1"]],
    "half.example": [["93.184.216.34", "10.0.0.5"]],
}
# Those that are bad as they are written, and those whose names lead astray.
WRITTEN = {
    133: ["http://127.0.0.1/"],
    135: ["http://127.1/"],
    136: ["http://2130706433/"],
    137: ["http://0x7f.1/"],
    138: ["http://0177.0.0.1/"],
    139: ["http://0/"],
    140: ["http://[::1]/"],
    141: ["http://[::ffff:127.0.0.1]/"],
    142: [
        "http://169.254.169.254/latest/meta-data/",
        "http://192.0.0.192/",
        "http://168.63.129.16/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[64:ff9b:1::1]/",
        "http://[2002:a9fe:a9fe::]/",
        "http://[::169.254.169.254]/",
        "http://[fec0::1]/",
        "http://224.0.0.1/",
        "http://[ff02::1]/",
    ],
    144: ["http://[fd00:ec2::254]/"],
    147: ["http://public.example\\@127.0.0.1/"],
    148: ["http://127.0.0.1%2f@public.example/"],
    149: ["http://\uff50ublic.example/"],
    150: ["file:///etc/passwd"],
    151: ["gopher://public.example/"],
    152: ["s3://other-bucket/x"],
    154: ["http://user:pass@public.example/"],
    155: ["http://public.example:22/", "http://public.example:6379/"],
    171: ["http://127.0.0.1:<<api_port>>/v1/generations/<<other_job>>/images/0"],
}
NAMED = {
    134: ["http://localhost/"],
    143: ["http://metadata.google.internal/"],
    145: ["http://ray-head:8265/api/jobs/"],
    146: ["https://kubernetes.default.svc/api"],
    156: ["http://127.0.0.1.nip.example/"],
    157: ["http://half.example/"],
}
ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"
UNREACHABLE, BLOCKED = "url_unreachable", "url_blocked"
# Path on the hostile server: number, what it answers, code and status that the caller gets, whether time passes.
SERVED: dict[str, tuple[int, Answerer, str | None, int, bool]] = {
    "/photo": (158, always(http(body=small_photo())), None, 202, False),
    "/metadata": (159, always(http(302, location="http://169.254.169.254/latest/")), BLOCKED, 422, False),
    "/inside": (159, always(http(302, location="http://localhost/")), BLOCKED, 422, False),
    "/loop": (160, always(http(302, location="/loop")), UNREACHABLE, 422, False),
    "/file": (161, always(http(302, location="file:///etc/passwd")), BLOCKED, 422, False),
    "/endless": (162, forever(ENDLESS, bytes(65_536)), "url_too_large", 413, True),
    "/slow": (163, forever(ENDLESS, b"a", pause_s=0.2), UNREACHABLE, 422, True),
    "/bomb": (164, always(http(body=gzip.compress(bytes(10**6)), content_encoding="gzip")), UNREACHABLE, 422, False),
    "/longer": (165, always(http(content_length=10)), UNREACHABLE, 422, False),
    "/huge": (165, always(http(content_length=10**12)), "url_too_large", 413, False),
    "/html": (168, always(http(body=b"<!doctype html><p>")), "image_unsupported_format", 422, False),
    "/nothing": (169, always(http(204, body=b"", content_length=None)), UNREACHABLE, 422, False),
}


def entries() -> Iterator[Entry]:
    for number, urls in {**WRITTEN, **NAMED}.items():
        for url in urls:
            yield refused(number, url, at(url), BLOCKED)
    yield refused(153, "50 MB of data:", at("data:image/png;base64," + "A" * 10_000_000))
    yield refused(170, "address of 64 KB", at("http://public.example/" + "a" * 65_536))
    for path, (number, _, code, status, waits) in SERVED.items():
        url = f"http://hostile.example:<<hostile_port>>{path}"
        yield Entry(number, f"the photo at {path}", at(url), (status,), code, waits)
    yield from turning()
    for number, name in ((166, "self-signed"), (167, "another name's")):
        yield refused(number, f"{name} certificate", at("https://hostile.example:<<tls_port>>/photo"), UNREACHABLE)


def turning() -> Iterator[Entry]:
    """A name with another address at every look-up: what the first one led to is taken, the second is refused."""
    url = "http://flips.example:<<hostile_port>>/photo"
    yield taken(158, "name that is public", at(url))
    yield refused(158, "name that turned private", at(url), BLOCKED)


def at(url: str) -> object:
    """A request for a generation with the photo at an address."""
    return generation(image=..., image_url=url)
