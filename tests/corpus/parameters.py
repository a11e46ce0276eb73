"""Entries 172 to 192, and what of 101 to 132 is a parameter: JSON that is none, and values that are not served."""

from __future__ import annotations

import json
from collections.abc import Iterator

from corpus.entry import PHOTO_TEXT, Entry, as_json, generation, malformed, refused, taken

from instantid_serve.serving.api.schemas import GenerationFields

NULL_MEANS_OMITTED = {"model", "seed", "width", "height", "webhook_url", "retention_s"}
EMOJI = "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
MALFORMED = [
    (172, "NaN", b'"steps": NaN'),
    (173, "Infinity", b'"guidance_scale": Infinity'),
    (173, "-Infinity", b'"guidance_scale": -Infinity'),
    (174, "1e400", b'"guidance_scale": 1e400'),
    (175, "lone surrogate", b'"negative_prompt": "\\ud800"'),
    (175, "lone surrogate as a key", b'"\\udfff": 1'),
    (180, "integer of 5,000 digits", b'"seed": ' + b"9" * 5000),
    (181, "100,000 arrays", b'"seed": ' + b"[" * 100_000),
    (182, "key twice", b'"prompt": "another"'),
    (185, "invalid UTF-8", b'"negative_prompt": "\xff"'),
]
REFUSED = [
    (131, {"pose_image": PHOTO_TEXT}),
    (132, {"pose_image": PHOTO_TEXT, "width": 512, "height": 512}),
    (176, {"prompt": "a\0b"}),
    (177, {"steps": True}),
    (178, {"steps": "30"}),
    (179, {"seed": -1}),
    (179, {"seed": 2**64}),
    (183, {"tenant_id": "other"}),
    (183, {"status": "succeeded"}),
    (186, {"count": 10**9}),
    (186, {"count": 1e9}),
    (187, {"prompt": ""}),
    (187, {"prompt": " \t\n"}),
    (187, {"prompt": "x" * 2001}),
    (187, {"prompt": EMOJI * 1001}),
    (187, {"prompt": "\u200b\u200d\ufeff"}),
    (188, {"steps": 0}),
    (188, {"steps": 101}),
    (188, {"steps": -1}),
    (188, {"guidance_scale": -1}),
    (188, {"guidance_scale": 1e9}),
    (188, {"identity_strength": -0.0001}),
    (188, {"identity_strength": 1.5001}),
    (189, {"width": 1004, "height": 512}),
    (189, {"width": 1, "height": 512}),
    (189, {"width": 100_000, "height": 512}),
    (189, {"width": 512}),
    (190, {"sampler": "os.system"}),
    (190, {"style": "Neon"}),
    (190, {"output_format": "gif"}),
    (191, {"image": None}),
    (192, {"metadata": {f"k{n}": "v" for n in range(1000)}}),
    (192, {"metadata": {"k": "v" * 1_000_000}}),
    (192, {"metadata": {"k": {"nested": 1}}}),
    (192, {"metadata": {"a key": "v"}}),
]
TAKEN = [
    (187, {"prompt": "\u202eright to left"}),
    (187, {"prompt": "a very long walk " * 100}),  # more tokens than SDXL reads; the result says so
    (188, {"guidance_scale": -0.0}),
    (188, {"identity_strength": 0}),
    (188, {"identity_strength": 1.0001}),
    (192, {"metadata": {"__proto__": "v"}}),
]


def entries() -> Iterator[Entry]:
    start = b'{"prompt": "a portrait", "image": "' + PHOTO_TEXT.encode() + b'", '
    for number, name, member in MALFORMED:
        yield malformed(number, name, as_json(start + member + b"}"))
    whole = generation().body.decode()
    yield malformed(184, "UTF-16", as_json(whole.encode("utf-16")))
    yield malformed(184, "byte order mark", as_json(b"\xef\xbb\xbf" + whole.encode()))
    for number, fields in REFUSED:
        yield refused(number, _named(fields), generation(**fields))
    yield refused(190, "model of another", generation(model="dall-e-3"), "unknown_model")
    for number, fields in TAKEN:
        yield taken(number, _named(fields), generation(**fields))
    for body in (b"[]", b"null", b'""'):
        yield refused(191, f"{body.decode()} as the body", as_json(body))
    yield from nulls()


def nulls() -> Iterator[Entry]:
    """null for each parameter: it stands for one left out where the document says so, and nowhere else."""
    for name in GenerationFields.model_fields:
        entry = taken if name in NULL_MEANS_OMITTED else refused
        yield entry(191, f"null for {name}", generation(**{name: None}))


def _named(fields: dict[str, object]) -> str:
    return json.dumps(fields)[:60]
