"""How fast a worker's pictures go on, from what its heartbeats see."""

from __future__ import annotations

import math
from collections.abc import Mapping

from instantid_serve.service.job import Speed

_REMEMBERED_S = 10.0  # after so long without steps a measurement counts for a third


class Pace:
    """Measures between heartbeats, and smooths. Times are seconds on any one clock."""

    def __init__(self, max_pictures: int) -> None:
        self._max_pictures = max_pictures
        self._steps: dict[str, int] = {}
        self._seen_s: float | None = None
        self._steps_per_s = 0.0
        self._step_s = 0.0

    def measure(self, now_s: float, steps: Mapping[str, int], pictures: int) -> Speed:
        """The speed as of now. ``steps``: denoising steps that each job has done; ``pictures`` in flight."""
        passed_s = 0.0 if self._seen_s is None else now_s - self._seen_s
        done = sum(max(0, now - self._steps.get(job, 0)) for job, now in steps.items())
        self._steps, self._seen_s = dict(steps), now_s
        if passed_s > 0 and done:  # idle times say nothing of how fast it would be
            kept = math.exp(-passed_s / _REMEMBERED_S) if self._steps_per_s else 0.0
            self._steps_per_s = kept * self._steps_per_s + (1 - kept) * done / passed_s
            self._step_s = kept * self._step_s + (1 - kept) * passed_s * pictures / done
        return Speed(pictures, self._max_pictures, self._steps_per_s, self._step_s)
