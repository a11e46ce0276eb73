"""Kills, and now and then pauses, replicas of a served application at random moments, as a bad week does."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import random
import signal
from collections.abc import Callable, Sequence

KILL, PAUSE = "kill -9", "pause"


@dataclasses.dataclass(frozen=True, slots=True)
class Blow:
    """One process that was killed or paused, ``at_s`` seconds after the beginning."""

    at_s: float
    how: str
    deployment: str


@dataclasses.dataclass
class Killer:
    """``pids`` tells a deployment's processes. ``plan``: (how, deployment) in turn, again and again."""

    pids: Callable[[str], set[int]]
    plan: Sequence[tuple[str, str]]
    pauses_s: tuple[float, float]  # between two blows, at least and at most
    paused_s: float  # how long a paused process is; longer than a lease, or nothing is taken from it
    seed: int
    blows: list[Blow] = dataclasses.field(default_factory=list)

    async def strike(self, wanted: Callable[[], bool]) -> None:
        """Strike for as long as it is wanted."""
        draw, loop = random.Random(f"kills {self.seed}"), asyncio.get_running_loop()
        began_s = loop.time()
        for how, deployment in itertools.cycle(self.plan):
            await asyncio.sleep(draw.uniform(*self.pauses_s))
            if not wanted():
                return
            running = sorted(await asyncio.to_thread(self.pids, deployment))
            if running:
                await self._strike(how, draw.choice(running))
                self.blows.append(Blow(round(loop.time() - began_s, 2), how, deployment))

    async def _strike(self, how: str, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # Serve knows a little later than we who is gone
            if how == KILL:
                os.kill(pid, signal.SIGKILL)
                return
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(self.paused_s)
            finally:
                os.kill(pid, signal.SIGCONT)
