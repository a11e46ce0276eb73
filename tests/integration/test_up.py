"""The two commands that serve a config file on one machine: they start from nothing and stop cleanly."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from instantid_serve.serving.config import DEPLOYMENTS

LOCAL = Path(__file__).parents[2] / "deployments" / "local.yaml"
START_TIMEOUT_S, STOP_TIMEOUT_S = 200, 60


@pytest.fixture
def config(tmp_path):
    """The local config on a free port, and its URL."""
    document = yaml.safe_load(LOCAL.read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    document["http_options"]["port"] = port
    document["applications"][0]["args"]["limits"]["native_side"] = 64
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path, f"http://127.0.0.1:{port}"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A home of its own: no model, no database, no token; and no cluster of another test to be found."""
    short = tempfile.mkdtemp(prefix="iid-", dir="/tmp")
    for name in [name for name in os.environ if name.startswith(("RAY_", "INSTANTID_"))]:
        monkeypatch.delenv(name)
    yield {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data"), "RAY_TMPDIR": short}
    shutil.rmtree(short, ignore_errors=True)


def family(environment):
    """Every live process that was started with this environment, however far down."""
    mark = f"RAY_TMPDIR={environment['RAY_TMPDIR']}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or it has just ended
            if mark in path.read_bytes():
                found.append(path.parent.name)
    return found


def is_ready(url):
    """Whether the service answers that it is ready."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/readyz", timeout=5):
            return True
    except OSError:
        return False


def heed_sigint():
    """A shell that started the tests in the background had them ignore SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ([sys.executable, "-m", "instantid_serve.cli", "up"], signal.SIGTERM),
        ([str(Path(sys.executable).with_name("serve")), "run"], signal.SIGINT),
    ],
    ids=["instantid-serve up", "serve run"],
)
def test_a_config_is_served_from_nothing_and_stopped_without_a_trace(command, number, config, environment, tmp_path):
    path, url = config
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, str(path)],
            env=environment,
            stdout=sink,
            stderr=sink,
            cwd=tmp_path,
            preexec_fn=heed_sigint,  # noqa: PLW1509 - pytest has no other thread that could hold a lock here
        )
    try:
        ends = time.monotonic() + START_TIMEOUT_S
        while not is_ready(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.2)
        assert len(family(environment)) > len(DEPLOYMENTS)

        process.send_signal(number)

        assert process.wait(STOP_TIMEOUT_S) == 0, log.read_text()
        ends = time.monotonic() + 20
        while family(environment) and time.monotonic() < ends:
            time.sleep(0.2)
        assert family(environment) == []
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
