"""The HTTP application in a process of its own, served as Serve serves it: ``python api_program.py SETTINGS NAMES``.

Both arguments are files of JSON: the service's settings, and what each host name resolves to, which stands in for the
world's DNS; other names do not exist. It prints its port and ends when its input does.
"""

from __future__ import annotations

import collections
import itertools
import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn

from instantid_serve.decoding import GuardedDecoder
from instantid_serve.service.database import ready_database
from instantid_serve.service.results import open_store
from instantid_serve.serving.api.application import build_api
from instantid_serve.serving.api.context import open_context
from instantid_serve.serving.api.readiness import Readiness
from instantid_serve.settings import Settings


def stand_in_for_dns(names: dict[str, list[list[str]]]) -> None:
    """Resolve these names to their answers, one after the other and again from the first."""
    of_system = socket.getaddrinfo
    answers = {name: itertools.cycle(each) for name, each in names.items()}

    def look_up(host: Any, *more: Any, **named: Any) -> list[Any]:
        if host not in answers:
            raise socket.gaierror(socket.EAI_NONAME, "there is no such name")
        found = (of_system(address, *more, **named) for address in next(answers[host]))
        return list(collections.OrderedDict.fromkeys(itertools.chain.from_iterable(found)))

    socket.getaddrinfo = look_up


def main(settings_file: str, names_file: str) -> None:
    settings = Settings.load(json.loads(Path(settings_file).read_text()))
    database, store = ready_database(settings.database), open_store(settings.results)
    decoder = GuardedDecoder(max_bytes=settings.api.max_photo_bytes)
    app = build_api(open_context(settings, database, store, decoder, Readiness({})))
    listener = socket.create_server(("127.0.0.1", 0))
    stand_in_for_dns(json.loads(Path(names_file).read_text()))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning"))

    def end_with_input() -> None:
        sys.stdin.read()
        server.should_exit = server.force_exit = True

    threading.Thread(target=end_with_input, daemon=True).start()
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - how whoever started it learns the port
    server.run(sockets=[listener])
    decoder.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
