"""Keep openapi.json exact: what the application says of itself, with the limits a server has by default.

.venv/bin/python scripts/openapi.py check    exit 1 and say what differs first
.venv/bin/python scripts/openapi.py write    write what the application says now
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instantid_serve.serving.api.application import api_document
from instantid_serve.settings import LimitSettings

FILE = Path(__file__).parents[1] / "openapi.json"
SHOWN = 10
_ABSENT = object()


def main(verb: str) -> int:
    said = api_document(LimitSettings())  # not from the environment, so it is the same on every machine
    if verb == "write":
        FILE.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n")
        return 0
    found = list(itertools.islice(differences(json.loads(FILE.read_text()), said), SHOWN + 1))
    for pointer in found[:SHOWN]:
        print(f"openapi.json: {pointer} is not what the application says")
    if found:
        print(f"openapi.json: {'and more; ' * (len(found) > SHOWN)}write it anew with scripts/openapi.py write")
    return 1 if found else 0


def differences(kept: Any, said: Any, pointer: str = "") -> Iterator[str]:  # noqa: ANN401 - any JSON
    """JSON pointers to what is in one of the documents only, or not the same in both."""
    if isinstance(kept, dict) and isinstance(said, dict):
        for name in kept | said:
            escaped = name.replace("~", "~0").replace("/", "~1")
            yield from differences(kept.get(name, _ABSENT), said.get(name, _ABSENT), f"{pointer}/{escaped}")
    elif isinstance(kept, list) and isinstance(said, list) and len(kept) == len(said):
        for index, pair in enumerate(zip(kept, said, strict=True)):
            yield from differences(*pair, f"{pointer}/{index}")
    elif kept != said:
        yield pointer


if __name__ == "__main__":
    if sys.argv[1:] not in (["check"], ["write"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
