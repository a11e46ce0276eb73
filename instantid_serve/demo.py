"""`instantid-serve demo`: a server of its own, one real photo, several jobs at once, and a contact sheet to look at.

Everything goes the way a stranger's request goes: a server in another process, HTTP, the public SDK.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import skimage.data
import yaml
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from instantid_serve import sizing
from instantid_serve.client import Client, Parameters
from instantid_serve.contact_sheet import Tile, draw_sheet
from instantid_serve.errors import ConfigurationError, DeadlineError, UnavailableError
from instantid_serve.landmarks import draw_landmarks
from instantid_serve.models.builtin import BuiltinAnalyzer
from instantid_serve.told_job import Job

_START_TIMEOUT_S = 240.0
_JOBS_TIMEOUT_S = 900.0
_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.15
_LOG_LINES_SHOWN = 25
_PROMPT_CHARS = 24  # the table then fits 80 columns


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """A job of one picture. ``effort`` scales the number of steps that the user asked for."""

    prompt: str
    effort: float
    parameters: Parameters


# Different in everything one engine batch may mix: sampler, steps, guidance on and off, strengths, window.
ORDERS = (
    Order("a watercolour portrait, soft morning light", 1.0, {"sampler": "euler"}),
    Order("a bronze statue in a museum", 0.6, {"sampler": "dpmpp_2m_karras", "guidance_scale": 7.5}),
    Order("a comic book hero, bold ink", 0.3, {"sampler": "lcm", "guidance_scale": 1.0}),
    Order("film noir, rain, neon signs", 1.0, {"sampler": "euler_ancestral", "identity_strength": 0.3}),
    Order("an oil painting by candlelight", 0.8, {"sampler": "unipc", "identitynet_strength": 0.4}),
    Order("an astronaut on the moon", 0.5, {"sampler": "ddim", "identitynet_end": 0.5, "guidance_scale": 3.0}),
    Order("a paper collage, bright colours", 0.7, {"sampler": "deis", "guidance_scale": 1.0}),
    Order("a stone relief, evening sun", 0.4, {"sampler": "heun", "identity_strength": 1.2}),
)


def run(out: Path, pictures: int, steps: int) -> bool:
    """Make ``pictures`` pictures with at most ``steps`` steps each into ``out``; return whether every job succeeded.

    Raises UnavailableError when the server does not start, ConfigurationError when its configuration is not found.
    """
    console = Console(stderr=True)
    photo = astronaut()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="instantid-demo-") as scratch, server(Path(scratch), console) as client:
        began = time.monotonic()
        jobs = _submit(client, _png(photo), plan(pictures, steps))
        finished = _watch(client, jobs, console)
        took_s = time.monotonic() - began
        results = {job.id: _fetch(client, job, out) for job in finished if job.failure is None}
    _report(console, jobs, finished, took_s)
    if results:
        sheet = out / "contact-sheet.png"
        _sheet(photo, jobs, finished, results).save(sheet)
        console.print(f"\n{sum(map(len, results.values()))} pictures in [bold]{out}/[/], all on [bold]{sheet}[/]")
        console.print(
            "The miniature's weights are random: its pictures are abstract, the path they took is the real one."
        )
    return len(results) == len(jobs)


def astronaut() -> Image.Image:
    """A real photo of a face that comes with scikit-image: Eileen Collins, by NASA, in the public domain."""
    return Image.fromarray(skimage.data.astronaut())


def plan(pictures: int, steps: int) -> list[Order]:
    """One order a picture, each with a seed of its own."""
    orders: list[Order] = []
    for number in range(pictures):
        order = ORDERS[number % len(ORDERS)]
        own: Parameters = {"seed": 100 * number + 7, "steps": max(1, round(steps * order.effort))}
        orders.append(dataclasses.replace(order, parameters={**order.parameters, **own}))
    return orders


@contextmanager
def server(scratch: Path, console: Console) -> Iterator[Client]:
    """A server in a process of its own, on a free port, with its data in ``scratch``; stopped cleanly at the end."""
    key = secrets.token_urlsafe(24)
    config, url = _write_config(scratch, key)
    log = scratch / "server.log"
    command = [sys.executable, "-m", "instantid_serve.cli", "up", str(config)]
    # Settings of the user's own server must not reach this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INSTANTID_")}
    with log.open("wb") as sink:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the server in order.
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=sink, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        with Client(url, key) as client:
            _wait_until_ready(client, process, log, console)
            yield client
    finally:
        with console.status("stopping the server"):
            _stop(process)


def local_config() -> Path:
    """deployments/local.yaml: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parent
    for folder in (package, package.parent):
        if (path := folder / "deployments" / "local.yaml").is_file():
            return path
    raise ConfigurationError("deployments/local.yaml is missing from this installation")


def _write_config(scratch: Path, key: str) -> tuple[Path, str]:
    """The local configuration with a port, a key, a database and a results folder of its own."""
    document: dict[str, Any] = yaml.safe_load(local_config().read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    document["http_options"] = {**document.get("http_options", {}), "host": "127.0.0.1", "port": port}
    settings = document["applications"][0].setdefault("args", {})
    settings["database"] = {"url": f"sqlite:///{scratch / 'jobs.sqlite3'}"}
    settings["results"] = {"kind": "folder", "folder": str(scratch / "results")}
    keys = [{"tenant": "demo", "sha256": hashlib.sha256(key.encode()).hexdigest()}]
    settings["api"] = {**settings.get("api", {}), "keys": keys}
    path = scratch / "demo.yaml"
    path.write_text(yaml.safe_dump(document))
    return path, f"http://127.0.0.1:{port}"


def _wait_until_ready(client: Client, process: subprocess.Popen[bytes], log: Path, console: Console) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    with console.status("starting a server; the first time it makes its miniature model"):
        while not client.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:])
                raise UnavailableError(f"the server did not start; the end of its log:\n{tail}")
            time.sleep(_POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _submit(client: Client, photo: bytes, orders: list[Order]) -> dict[str, Order]:
    """Hand everything in before anything is waited for. Job id -> order."""
    return {client.submit(photo, order.prompt, **order.parameters).id: order for order in orders}


def _watch(client: Client, jobs: dict[str, Order], console: Console) -> list[Job]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bars = {job: progress.add_task(f"{order.prompt:42.42}", total=None) for job, order in jobs.items()}
        finished: dict[str, Job] = {}
        deadline = time.monotonic() + _JOBS_TIMEOUT_S
        while len(finished) < len(jobs):
            if time.monotonic() > deadline:
                raise DeadlineError(f"{len(jobs) - len(finished)} jobs are not done after {_JOBS_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
            for job in jobs.keys() - finished.keys():
                state = client.get(job)
                progress.update(bars[job], completed=state.step, total=state.steps or None)
                if state.done:
                    progress.stop_task(bars[job])
                    finished[job] = state
    return [finished[job] for job in jobs]


def _fetch(client: Client, job: Job, out: Path) -> list[Image.Image]:
    pictures: list[Image.Image] = []
    for image in job.images:
        content = client.fetch(job, image.index)
        (out / f"{job.id}-{image.index}.png").write_bytes(content)
        pictures.append(Image.open(io.BytesIO(content)))
    return pictures


def _report(console: Console, jobs: dict[str, Order], finished: list[Job], took_s: float) -> None:
    prompt = Column("job", no_wrap=True, overflow="ellipsis", max_width=_PROMPT_CHARS)
    numbers = (Column(name, justify="right", no_wrap=True) for name in ("steps", "guidance", "rows", "max"))
    table = Table(prompt, Column("sampler", no_wrap=True), *numbers, box=SIMPLE_HEAD)
    for job in finished:
        order, stats = jobs[job.id], [image.stats for image in job.images]
        if job.failure is not None:
            console.print(f"[red]{order.prompt}: {job.failure.code}: {job.failure.detail}[/]")
            continue
        steps, guidance = order.parameters["steps"], order.parameters.get("guidance_scale", 5.0)
        rows = [f"{mean(s['mean_batch_rows'] for s in stats):.1f}", f"{max(s['max_batch_rows'] for s in stats):.0f}"]
        table.add_row(order.prompt, order.parameters["sampler"], f"{steps}", f"{guidance:g}", *rows)
    console.print(table, "rows: of the batches it shared, mean and largest", _stages(finished))
    pictures = sum(len(job.images) for job in finished)
    console.print(f"{pictures} pictures in {took_s:.1f} s, {pictures / took_s:.2f} per second")


def _stages(finished: list[Job]) -> Table:
    """What each stage took, over all jobs; and its parts in the engine, over all pictures."""
    stats = [image.stats for job in finished for image in job.images]
    table = Table("stage", Column("mean s", justify="right"), Column("longest s", justify="right"), box=SIMPLE_HEAD)
    for stage in dict.fromkeys(stage for job in finished for stage in job.timings):
        _add_seconds(table, stage.removesuffix("_s"), [job.timings[stage] for job in finished if stage in job.timings])
        if stage == "generate_s" and stats:
            for part in ("waiting", "prepare", "denoise", "decode"):
                _add_seconds(table, f"  {part}", [s[f"{part}_s"] for s in stats])
    return table


def _add_seconds(table: Table, name: str, seconds: list[float]) -> None:
    table.add_row(name, f"{mean(seconds):.2f}", f"{max(seconds):.2f}")


def _sheet(
    photo: Image.Image, jobs: dict[str, Order], finished: list[Job], results: dict[str, list[Image.Image]]
) -> Image.Image:
    size = next(iter(results.values()))[0].size
    tiles = [Tile(photo, "the photo", "Eileen Collins, NASA, public domain"), _landmark_tile(photo, size)]
    for job in finished:
        order = jobs[job.id].parameters
        for image, picture in zip(job.images, results.get(job.id, []), strict=False):
            rows = f"{image.stats['max_batch_rows']:.0f}"
            note = f"{order['sampler']}, {order['steps']} steps, seed {image.seed}, {rows} rows"
            tiles.append(Tile(picture, jobs[job.id].prompt, note))
    return draw_sheet("One photo, several jobs, one engine (rows: the largest batch a picture shared)", tiles)


def _landmark_tile(photo: Image.Image, size: tuple[int, int]) -> Tile:
    """What IdentityNet sees. The service never hands out face features, so the demo looks for the face itself."""
    face = BuiltinAnalyzer().find(np.asarray(photo))[0]
    landmarks = sizing.place(photo.size, size, "crop", face.box).apply(face.landmarks)
    return Tile(
        Image.fromarray(draw_landmarks(landmarks, *size)), "the landmarks that were found", "by the built-in analyser"
    )


def _png(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()
