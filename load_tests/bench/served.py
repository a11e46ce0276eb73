"""The whole application on a Ray cluster of this machine, for the benchmarks that go through it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx2
import psutil

from instantid_serve.demo import astronaut
from instantid_serve.serving import up
from instantid_serve.serving.config import ServeConfig
from load_tests.bench import engines
from load_tests.bench.slow_upload import UPLOAD_S

ROOT = Path(__file__).parents[2]
KEY = TENANT = "bench"
DEADLINE_S = 120.0


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """When a job of one picture was done (seconds since the epoch, the database's clock), and how it was made."""

    at_s: float
    stats: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Application:
    """A served application, and a photo that its face analyser knows after the first job."""

    config: ServeConfig
    photo: bytes

    def make(self, forms: Sequence[dict[str, Any]]) -> list[Done]:
        """Submit all jobs and return them in the order in which they were done."""
        with httpx2.Client(
            base_url=self.config.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=DEADLINE_S, trust_env=False
        ) as http:
            files = {"image": self.photo}
            ids = [http.post("/v1/generations", data=form, files=files).json()["id"] for form in forms]
            return sorted((_done(http, id_) for id_ in ids), key=lambda done: done.at_s)

    def upload_takes(self, seconds: float) -> None:
        """Replace the publishers by some whose uploads take so long; nothing else restarts."""
        (publisher,) = (d for d in self.config.application.deployments if d.name == "Publisher")
        publisher.ray_actor_options.runtime_env = {"env_vars": {UPLOAD_S: str(seconds)}}
        publisher.max_ongoing_requests = 8  # it waits for the store, not for the CPU
        before = self.pids("Publisher")
        up.deploy(self.config)
        ends = time.monotonic() + DEADLINE_S
        while not (now := self.pids("Publisher")) or now & before:
            if time.monotonic() > ends:
                raise TimeoutError("the publisher was not replaced")
            time.sleep(0.1)

    def pids(self, deployment: str) -> set[int]:
        """Process ids of a deployment's replicas, as Serve knows them now."""
        from ray.serve.context import _get_global_client  # noqa: PLC0415

        details = _get_global_client().get_serve_details()["applications"][self.config.application.name]
        replicas = details["deployments"][deployment]["replicas"]
        return {replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}


def _done(http: httpx2.Client, id_: str) -> Done:
    ends = time.monotonic() + DEADLINE_S
    while not (job := http.get(f"/v1/generations/{id_}").json())["done"]:
        if time.monotonic() > ends:
            raise TimeoutError(f"job {id_} is not done")
        time.sleep(0.25)  # rarely: what is asked here is asked on the cores that are measured
    if job["status"] != "succeeded":
        raise RuntimeError(f"job {id_} {job['status']}: {job['error']}")
    return Done(dt.datetime.fromisoformat(job["finished_at"]).timestamp(), job["images"][0]["stats"])


@contextlib.contextmanager
def application(overrides: dict[str, Any], replicas: Mapping[str, int] | None = None) -> Iterator[Application]:
    """Serve ``deployments/local.yaml`` with these settings above it, for the length of a ``with`` block.

    ``replicas``: of deployments that have other than one.
    """
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # or the side that is compared with has the machine's favour
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    with tempfile.TemporaryDirectory(prefix="iid-", dir="/tmp") as folder:
        os.environ["RAY_TMPDIR"] = folder  # Ray puts sockets below it, whose paths must be short
        settings = {
            "model": {"folder": str(engines.miniature_folder())},
            "database": {"url": f"sqlite:///{folder}/jobs.sqlite3"},
            "results": {"kind": "folder", "folder": f"{folder}/results"},
            "api": {"keys": [{"tenant": TENANT, "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]},
        }
        path = ROOT / "deployments" / "local.yaml"
        config = ServeConfig.load(path, port=up._free_port(), overrides={**settings, **overrides})  # noqa: SLF001
        config.application.import_path = "load_tests.bench.slow_upload:build"
        for deployment in config.application.deployments:
            deployment.num_replicas = (replicas or {}).get(deployment.name, deployment.num_replicas)
        with up.cluster(config):
            up.deploy(config)
            up.wait_until_ready(config, deadline_s=DEADLINE_S)
            yield Application(config, _photo())


def _photo() -> bytes:
    stream = io.BytesIO()
    astronaut().save(stream, "JPEG", quality=92)
    return stream.getvalue()


class Company:
    """What other programs of this machine took of its cores during a ``with`` block: a busy machine spoils a sample."""

    cores = 0.0

    def __enter__(self) -> Self:
        self._began_s, self._busy_s, self._ours_s = time.monotonic(), _busy_s(), _ours_s()
        return self

    def __exit__(self, *_: object) -> None:
        others_s = (_busy_s() - self._busy_s) - (_ours_s() - self._ours_s)
        self.cores = max(0.0, others_s / (time.monotonic() - self._began_s))


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _ours_s() -> float:
    """CPU seconds of this process and of all it started: Ray's processes are below it, and so are the replicas."""
    total_s = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total_s += times.user + times.system
    return total_s
