"""Whether a batch's company changes a bit: rows in another order at one shape, and the fixed-bucket tier."""

from __future__ import annotations

import hashlib
import random
import time
from typing import Any

import numpy as np
import torch
from bench import Bench, request
from measure import Section
from numpy.typing import NDArray

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.messages import Request
from instantid_serve.verify import InlineExecutor

_PERMUTATIONS = 6
_REQUESTS = 12  # different ones; each is run alone once
_STEPS = 3
_EXACT_ROWS = 8


def permutations(bench: Bench, section: Section) -> None:
    """Both networks at one shape: does a row's result depend on its place, or on who else is there?"""
    draw = torch.Generator().manual_seed(5)
    for side, rows in ((bench.small, 8), (bench.small, 16), (bench.large, 8)):
        if not section.fits(15.0 * bench.full, f"{rows} rows at {side}"):
            continue
        inputs = _inputs(bench, side, rows)
        wanted = _output(bench, inputs)
        equal, worst = 0, 0.0
        for _ in range(_PERMUTATIONS):
            order = torch.randperm(rows, generator=draw).to(bench.device)
            got = _output(bench, {name: tensor[order] for name, tensor in inputs.items()})
            equal += int(torch.equal(got, wanted[order]))
            worst = max(worst, float((got - wanted[order]).abs().max()))
        others = {name: torch.cat([tensor[:1], tensor[1:].roll(1, 0)]) for name, tensor in inputs.items()}
        others["latents"][1:] = others["latents"][1:].neg()
        company = bool(torch.equal(_output(bench, others)[0], wanted[0]))
        section.add(
            side=side,
            rows=rows,
            permutations=_PERMUTATIONS,
            bit_equal=equal,
            largest_difference=worst,
            equal_in_other_company=company,
            alone_equals_in_company=bool(
                torch.equal(_output(bench, {n: t[:1] for n, t in inputs.items()})[0], wanted[0])
            ),
        )


def schedules(bench: Bench, section: Section) -> None:
    """Exact requests alone, and in random company that joins and is canceled at any step: digests of their latents."""
    for mode, count in (("graphed", bench.schedules), ("eager", bench.schedules // 5)):
        latents: dict[str, NDArray[np.float32]] = {}
        runner = Runner(
            _Undecoded(bench.model),
            max_rows=2 * _EXACT_ROWS,
            exact_rows=_EXACT_ROWS,
            graphs=bench.cuda and mode == "graphed",
            observe=lambda id_, _, values, kept=latents: kept.__setitem__(id_, values.copy()),
        )
        began_s = time.perf_counter()
        alone = {n: _run(runner, latents, [_exact(bench, n)], None)[f"r{n}"] for n in range(_REQUESTS)}
        each_s = (time.perf_counter() - began_s) / _REQUESTS
        compared = different = run = 0
        for seed in range(count):
            if section.report.left_s() < 20.0 + 4 * each_s:
                section.skipped(f"{mode}: {count - run} of {count} schedules", "no time is left")
                break
            digests = _run(runner, latents, *_schedule(bench, seed))
            run += 1
            compared += len(digests)
            different += sum(digest != alone[int(name[1:])] for name, digest in digests.items())
        section.add(mode=mode, schedules=run, compared=compared, different=different, distinct=len(set(alone.values())))
        print(f"{mode}: {run} schedules, {compared} compared, {different} different", flush=True)


class _Undecoded:
    """The model without its decoder: latents are what is compared."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - any model
        self._model = model

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the model has
        return getattr(self._model, name)

    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        return np.zeros((len(latents), 1, 1, 3), np.uint8)


def _exact(bench: Bench, number: int) -> Request:
    draw = random.Random(number)
    return request(
        f"r{number}",
        bench.small,
        number,
        exact=True,
        steps=_STEPS,
        guidance_scale=draw.choice([1.0, 3.0, 5.0, 7.5]),
        identity_strength=draw.choice([0.0, 0.5, 0.8]),
        identitynet_strength=draw.choice([0.0, 0.4, 0.8]),
        sampler=draw.choice(
            ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"]
        ),
    )


def _schedule(bench: Bench, seed: int) -> tuple[list[Request], random.Random]:
    draw = random.Random(f"schedule {seed}")
    return [_exact(bench, n) for n in draw.sample(range(_REQUESTS), draw.randint(2, 5))], draw


def _run(
    runner: Runner, latents: dict[str, NDArray[np.float32]], requests: list[Request], draw: random.Random | None
) -> dict[str, str]:
    """One engine without threads. Returns the digest of the last latents of each request that was not canceled."""
    inline = InlineExecutor()
    scheduler = Scheduler(max_batch_rows=2 * _EXACT_ROWS, ageing_s=10.0)
    engine = Engine(runner, scheduler, max_resident_requests=16, prepare_on=inline, decode_on=inline)
    futures = {}
    for one in requests:
        futures[one.id] = engine.submit(one)
        for _ in range(draw.randint(0, 2) if draw else 0):
            engine.tick()
    if draw and draw.random() < 0.5:  # noqa: PLR2004 - every other schedule
        engine.cancel(requests[0].id)
    while engine.tick() or not all(future.done() for future in futures.values()):
        pass
    well = [name for name, future in futures.items() if future.exception() is None]
    return {name: hashlib.sha256(latents[name].tobytes()).hexdigest() for name in well}


@torch.inference_mode()
def _inputs(bench: Bench, side: int, rows: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    picture = torch.randint(0, 256, (side, side, 3), generator=draw, dtype=torch.uint8)
    faces = [torch.randn(512, generator=draw) for _ in range(rows)]
    conditioning = bench.model.condition([f"picture number {n}" for n in range(rows)], faces, picture)
    conditioning["hint"] = conditioning["hint"].expand(rows, -1, -1, -1).contiguous()
    scale = bench.model.latent_scale
    latents = torch.randn(rows, 4, side // scale, side // scale, generator=draw)
    numbers = {"timesteps": torch.linspace(900, 100, rows), "strengths": torch.linspace(0.3, 1.0, rows)}
    own = {name: tensor.to(bench.device) for name, tensor in ({"latents": latents} | numbers).items()}
    return conditioning | own


@torch.inference_mode()
def _output(bench: Bench, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    residuals = bench.model.identitynet(inputs["latents"], inputs["timesteps"], inputs, inputs["strengths"])
    return bench.model.unet(
        inputs["latents"],
        inputs["timesteps"],
        inputs,
        text_mask=None,
        identity_strengths=inputs["strengths"],
        residuals=residuals,
    )
