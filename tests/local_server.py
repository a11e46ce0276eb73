"""A server program that the tests start and stop themselves, on this machine's loopback alone."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

TIMEOUT_S = 60.0
POLL_S = 0.02

# Stops the server when a line is sent, and also when pytest died without a word: then its folder goes, too.
GUARD = """
exec 3<&0
"$@" </dev/null & server=$!
(read -r _ <&3 || touch forgotten; kill -INT "$server") & guard=$!
wait "$server"
kill "$guard"
[ ! -e forgotten ] || rm -rf "$PWD"
"""


class LocalServer:
    """One server with a folder and a port of its own. ``answers()`` raises OSError as long as it does not."""

    def __init__(self, name):
        self.name = name
        self.port = free_port()
        # Not below pytest's folders: those are root's alone, and too long for a socket's path.
        self.folder = Path(tempfile.mkdtemp(prefix=f"iid-{name}-", dir="/tmp"))
        self._process = None
        hand_over(self.folder)

    def command(self):
        raise NotImplementedError

    def answers(self):
        raise NotImplementedError

    def start(self):
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            command = ["/bin/sh", "-c", GUARD, "guard", *self.command()]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, **self.how_to_run(), start_new_session=True
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def stop(self):
        """Stop it at once, as in an outage: whoever is connected is cut off. What was committed stays."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with contextlib.suppress(BrokenPipeError):
            process.communicate(b"stop\n", TIMEOUT_S)

    def restart(self):
        """Stop and start it, on the same port and with the same data."""
        self.stop()
        self.start()

    def remove(self):
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def how_to_run(self):
        """Arguments for subprocess: in its folder and, if we are root, as a user who owns nothing else."""
        return {
            "cwd": self.folder,
            **({"user": "nobody", "group": nobodys_group(), "extra_groups": []} if root() else {}),
        }

    def _wait_until_it_answers(self):
        ends = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return self.answers()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > ends:
                    log = (self.folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"{self.name} did not start:\n{log[-2000:]}") from None
                time.sleep(POLL_S)


def hand_over(path):
    """Give a file or folder to the user under whom servers run."""
    if root():
        os.chown(path, pwd.getpwnam("nobody").pw_uid, nobodys_group())


def root():
    return os.geteuid() == 0


def nobodys_group():
    return pwd.getpwnam("nobody").pw_gid


def free_port():
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
