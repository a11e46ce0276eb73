"""Starts the whole service on this machine from one config file, waits until it is ready, and stops it cleanly."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import secrets
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client

from instantid_serve import errors
from instantid_serve.errors import ConfigurationError, UnavailableError
from instantid_serve.serving.config import ServeConfig
from instantid_serve.serving.model_folder import require

_OBJECT_STORE_BYTES = 256 * 1024 * 1024  # photos and pictures in flight; Ray's default is a third of the memory
_READY_DEADLINE_S = 600.0  # loading SDXL from a cold disk takes minutes
_POLL_S = 0.25
_NAMED_ERROR = re.compile(r"^\S*instantid_serve\.errors\.(?P<name>\w+Error): (?P<detail>.*)$", re.MULTILINE)
_BROKEN = ("DEPLOY_FAILED", "UNHEALTHY")


def up(
    config_path: Path,
    *,
    port: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    verbose: bool = False,
    dashboard: bool = False,
    announce: Callable[[str], object] = print,
) -> None:
    """Serve ``config_path`` until SIGINT or SIGTERM, then stop every replica and return.

    ``port`` 0 takes a free one. ``overrides`` are merged into the application's args. ``announce`` is called with the
    URL once ``/readyz`` answers 200. Raises ConfigurationError, or UnavailableError when it does not get ready.
    """
    stop = threading.Event()
    with running(config_path, port=port, overrides=overrides, verbose=verbose, dashboard=dashboard, stop=stop) as url:
        if not stop.is_set():
            announce(url)
        # An Event's wait without a timeout cannot be interrupted on every platform.
        while not stop.wait(1.0):
            pass


@contextlib.contextmanager
def running(
    config_path: Path,
    *,
    port: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    verbose: bool = False,
    dashboard: bool = False,
    stop: threading.Event | None = None,
) -> Iterator[str]:
    """Serve ``config_path`` for the length of a ``with`` block, which gets the URL; arguments as for :func:`up`.

    With ``stop``, SIGINT and SIGTERM set it, and a start that waits for readiness ends early.
    """
    config = ServeConfig.load(config_path, port=_free_port() if port == 0 else port, overrides=overrides)
    require(config.settings.model)
    with cluster(config, verbose=verbose, dashboard=dashboard):
        if stop is not None:
            _stop_on_signals(stop)
        deploy(config)
        wait_until_ready(config, stop)
        yield config.url


@contextlib.contextmanager
def cluster(config: ServeConfig, *, verbose: bool = False, dashboard: bool = False) -> Iterator[None]:
    """A Ray cluster of this machine alone, for the length of a ``with`` block.

    Ray's own ports listen on every interface, whatever address it is given; a token guards them.
    """
    _protect()
    ray.init(
        address="local",  # never a cluster that happens to run: `serve run` and `serve deploy` are for those
        # Replicas ask for fractions of a CPU; on a smaller machine they still fit and share its cores.
        num_cpus=max(os.cpu_count() or 1, math.ceil(config.num_cpus)),
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=dashboard,
        log_to_driver=verbose,
        logging_level=logging.INFO if verbose else logging.WARNING,
        namespace="serve",
    )
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def _protect() -> None:
    """Keep others out of the cluster: whoever may speak to it can run code as this user.

    Ray turns token authentication on for a new local cluster by itself unless RAY_AUTH_MODE says otherwise; a token
    of its own spares the home directory a file, which may not even be writable.
    """
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it warns of what is meant to be
    known = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if not known and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def deploy(config: ServeConfig) -> None:
    """Start or update the application on the cluster this process is connected to, as ``serve run`` does."""
    serve.start(
        proxy_location=config.schema.proxy_location,
        http_options=HTTPOptions(**config.schema.http_options.model_dump()),
    )
    # Serve's only public way to hand over a config file needs the dashboard; `serve run` itself calls this.
    _get_global_client().deploy_apps(config.schema, _blocking=False)


def wait_until_ready(
    config: ServeConfig, stop: threading.Event | None = None, deadline_s: float = _READY_DEADLINE_S
) -> None:
    """Return once ``/readyz`` answers 200, or ``stop`` is set.

    Raises ConfigurationError with the replica's own words when the application cannot start, UnavailableError when
    ``deadline_s`` pass.
    """
    ends = time.monotonic() + deadline_s
    while not (stop is not None and stop.is_set()):
        if _answers(f"{config.url}/readyz"):
            return
        _raise_if_broken(config.application.name)
        if time.monotonic() > ends:
            raise UnavailableError(f"the service is not ready after {deadline_s:g} s; see {ray_logs()}")
        time.sleep(_POLL_S)


def ray_logs() -> str:
    """Where Ray keeps the replicas' logs."""
    return f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs/serve"  # noqa: S108 - Ray's own default, only named


def _answers(url: str) -> bool:
    # urllib would send even loopback through a proxy that the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5.0) as response:
            return bool(response.status == 200)  # noqa: PLR2004
    except OSError:
        return False


def _raise_if_broken(application: str) -> None:
    """Raise once the application cannot start any more, or a replica said something that no retry can change."""
    status = serve.status().applications.get(application)
    if status is None:
        return
    messages = [status.message, *(deployment.message for deployment in status.deployments.values())]
    found = [match for message in messages for match in _NAMED_ERROR.finditer(message)]
    final = [match["detail"] for match in found if not getattr(errors, match["name"]).retryable]
    if final:
        raise ConfigurationError(f"the application does not start: {final[-1]}")
    if status.status in _BROKEN:
        raise ConfigurationError(f"the application does not start: {' '.join(filter(None, messages))[-2000:]}")


def _stop_on_signals(stop: threading.Event) -> None:
    """After ray.init, which sets a handler of its own for SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
