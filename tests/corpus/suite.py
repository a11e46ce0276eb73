"""The whole corpus of bad inputs, and which of its numbers are tested elsewhere or cannot be."""

from __future__ import annotations

import itertools

from corpus import http_requests, parameters, photos, tenancy, urls
from corpus.entry import Entry

NUMBERS = range(1, 199)
NO_PICTURE = "needs a photo of a kind that no installed package brings"

# Judged by the face analyser, which no HTTP answer waits for: corpus/test_faces.py.
FACES = frozenset({101, 102, 107, 108, 109, 110, 111, 112, 114, 115, 116, 117, 119, 120, 121, 123})

NOT_RUN = {
    103: NO_PICTURE,
    104: NO_PICTURE,
    105: NO_PICTURE,
    106: NO_PICTURE,
    113: NO_PICTURE,
    118: NO_PICTURE,
    122: NO_PICTURE,
    124: NO_PICTURE + "; fairness between groups needs a set of photos of many people",
    125: NO_PICTURE + "; fairness between groups needs a set of photos of many people",
    126: "a policy on infants is the operator's: the service does not guess ages",
    127: "a policy on contents is the operator's: the service has no classifier of them",
    128: "a policy on known people is the operator's: the service recognises nobody",
    129: "needs an attack trained against the served detector's weights",
    130: "a detector's score cannot be chosen from outside",
}


def entries() -> tuple[Entry, ...]:
    """Every entry that is an HTTP request, by number."""
    found = itertools.chain.from_iterable(room.entries() for room in (photos, urls, parameters, http_requests, tenancy))
    return tuple(sorted(found, key=lambda entry: entry.number))
