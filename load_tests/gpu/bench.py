"""What all sections share: the built model, the sizes measured, and the runners that later sections use again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from instantid_serve.engine.calibration import stand_in
from instantid_serve.engine.request import ShapeKey
from instantid_serve.engine.runner import Runner, State
from instantid_serve.engine.step_times import StepTimes
from instantid_serve.messages import Request
from instantid_serve.models.checkpoint import Components
from instantid_serve.models.instantid import InstantIDModel

TFLOP_PER_ROW = {512: 2.277, 768: 5.242, 1024: 9.767}  # of one step, as counted on these configurations
ROOF_TFLOP_S = 790.0  # dense bf16 of one H200, measured


@dataclasses.dataclass(slots=True, eq=False)
class Bench:
    """``small`` and ``large``: the two picture sides that most is measured at. ``rows``: the batch sizes."""

    device: torch.device
    dtype: torch.dtype
    parts: Components
    model: InstantIDModel
    pipeline: Any
    full: bool
    small: int
    middle: int
    large: int
    rows: tuple[int, ...]
    steps: int
    schedules: int
    window_s: float
    times: dict[str, StepTimes] = dataclasses.field(default_factory=dict)
    kept: dict[str, Runner] = dataclasses.field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def most_rows(self) -> int:
        return max(self.rows)

    def runner(self, **options: Any) -> Runner:  # noqa: ANN401 - the runner's own
        """A runner of the model; graphs where there is a GPU to record them."""
        options["graphs"] = options.get("graphs", False) and self.cuda
        return Runner(self.model, max_rows=self.most_rows, **options)

    def key(self, side: int) -> ShapeKey:
        scale = self.model.latent_scale
        return ShapeKey(side // scale, side // scale)

    def rate(self, side: int, rows: int, step_s: float) -> dict[str, float]:
        """TFLOP/s and its share of the roof; nothing for sizes that were not counted."""
        if not self.full or side not in TFLOP_PER_ROW:
            return {}
        tflop_s = TFLOP_PER_ROW[side] * rows / step_s
        return {"tflop_s": round(tflop_s, 1), "percent_of_roof": round(100 * tflop_s / ROOF_TFLOP_S, 1)}


def request(name: str, side: int, number: int = 0, **changes: Any) -> Request:  # noqa: ANN401 - fields of a request
    """A request for a picture of nobody: its own seed, face and prompt."""
    plain = stand_in(name, side, side, steps=changes.pop("steps", 30), guided=changes.pop("guided", True))
    face = np.random.default_rng(number).standard_normal(512).astype(np.float32)
    prompt = f"film photo number {number} of a person in a garden, soft light"
    values = {"prompt": prompt, "negative_prompt": "lowres, blurry", "seed": number, "embedding": face} | changes
    return dataclasses.replace(plain, **values)


def prepared(runner: Runner, side: int, rows: int, *, steps: int) -> list[State]:
    """States of so many rows: pairs, and a single one when the number is odd."""
    wanted = [request(f"pair {n}", side, n, steps=steps) for n in range(rows // 2)]
    wanted += [request("single", side, steps=steps, guided=False)] * (rows % 2)
    return [runner.prepare(one) for one in wanted]


def advance(runner: Runner, states: Sequence[State], times: int = 1) -> None:
    """Run steps and wait for them; what one of them raises is raised."""
    for _ in range(times):
        if errors := runner.step(states):
            raise next(iter(errors.values()))
    runner.wait()
