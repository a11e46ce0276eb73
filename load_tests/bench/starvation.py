"""Whether anybody starves: our scheduler in virtual time, against an adversarial stream, two resolutions at once.

The fair share of a moment: every live request has the same claim to the device; the claims of one shape are used
together, because its rows share steps; and where a shape has more rows than fit, its requests share the seats. A
request's fair-share bound is what its steps would take at the share of the most crowded moment of its stay.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence

import numpy as np

from instantid_serve.engine.request import Entry, ShapeKey
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.messages import Request

SMALL, LARGE = ShapeKey(64, 64), ShapeKey(128, 128)  # latents of 512 and 1024 px
STEP_MS = {SMALL: (25.0, 7.5), LARGE: (4.0, 33.0)}  # a + b * rows / 2: launch-bound, compute-bound
ROWS = 2


@dataclasses.dataclass(slots=True)
class Job:
    """A request in virtual time, and what it met with."""

    name: str
    at_s: float
    key: ShapeKey
    steps: int
    least_share: float = float("inf")  # steps per second at the most crowded moment of its stay
    fair_steps: float = 0.0  # steps it would have had so far at the fair share of every moment
    latency_s: float = 0.0

    @property
    def over_bound(self) -> float:
        """Latency as a multiple of the fair-share bound."""
        return self.latency_s * self.least_share / self.steps

    @property
    def over_share(self) -> float:
        """The same, moment by moment: much stricter, since it allows no crowd ahead of a request."""
        return self.fair_steps / self.steps


def step_s(key: ShapeKey, rows: int) -> float:
    """Return the seconds of a step of that many rows."""
    fixed_ms, per_pair_ms = STEP_MS[key]
    return (fixed_ms + per_pair_ms * rows / 2) / 1000


def adversarial(seed: int, *, duration_s: float, short_load: float, cap: int) -> list[Job]:
    """Long requests of both sizes, in a stream of short small ones that alone takes ``short_load`` of the device."""
    draw = random.Random(f"adversary {seed}")
    pictures_per_s = cap / ROWS / (8 * step_s(SMALL, cap))
    jobs, now_s = [], 0.0
    while (now_s := now_s + draw.expovariate(short_load * pictures_per_s)) < duration_s:
        jobs.append(Job(f"short {len(jobs)}", now_s, SMALL, 8))
    for at in range(int(duration_s // 20)):
        jobs.append(Job(f"long small {at}", at * 20 + draw.uniform(0, 5), SMALL, 50))
        jobs.append(Job(f"long large {at}", at * 20 + draw.uniform(0, 5), LARGE, 30))
    return sorted(jobs, key=lambda job: job.at_s)


def serve(jobs: Sequence[Job], scheduler: Scheduler, cap: int) -> None:
    """Run the scheduler over the jobs until all are done; what each met with is written into it."""
    waiting, live, now_s = list(reversed(jobs)), dict[str, Job](), 0.0
    while waiting or live:
        while waiting and (not live or waiting[-1].at_s <= now_s):
            job = waiting.pop()
            now_s = max(now_s, job.at_s)
            live[job.name] = job
            scheduler.add(Entry(_request(job), job.key, job.steps, job.at_s))
        batch = scheduler.next_batch(now_s)
        took_s = step_s(batch[0].key, sum(e.rows for e in batch))
        shares = _shares(live.values(), cap)
        for job in live.values():
            job.least_share = min(job.least_share, shares[job.key])
            job.fair_steps += took_s * shares[job.key]
        now_s += took_s
        scheduler.ran(batch, took_s)
        for entry in [e for e in batch if e.remaining == 0]:
            scheduler.remove(entry.id)
            job = live.pop(entry.id)
            job.latency_s = now_s - job.at_s


def _shares(live: Iterable[Job], cap: int) -> dict[ShapeKey, float]:
    """Return how many steps per second a request of each shape would get."""
    keys = [job.key for job in live]
    shares = {}
    for key in set(keys):
        count = keys.count(key)
        seats = min(1.0, cap / (ROWS * count))
        shares[key] = count / len(keys) * seats / step_s(key, min(cap, ROWS * count))
    return shares


def _request(job: Job) -> Request:
    nobody = np.zeros(512, np.float32)
    side_px = job.key.latent_width * 8
    return Request(
        id=job.name, prompt="", seed=0, width=side_px, height=side_px, embedding=nobody, landmarks=nobody[:10]
    )
