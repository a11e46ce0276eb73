"""Whole pictures: the engine with 32 requests in flight, against plain diffusers one at a time, side by side."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from statistics import median
from typing import Any

import numpy as np
import torch
from bench import Bench, request
from diffusers import ControlNetModel
from measure import Section, synchronize
from PIL import Image

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.request import StepReport
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.engine.step_times import StepTimes
from instantid_serve.landmarks import draw_landmarks
from instantid_serve.messages import Request

IN_FLIGHT = 32
_ROUNDS = 3
_DECODE_TOGETHER = 4


def against_plain(bench: Bench, section: Section) -> None:
    """Both sizes, in rounds of plain diffusers and engine. PNG and store are not part of it."""
    runner = bench.kept.get("graphed") or bench.runner(graphs=True)
    times = bench.times.get("graphed", StepTimes())
    rounds = _ROUNDS if bench.full else 1
    for side, alone in ((bench.small, 3 if bench.full else 1), (bench.large, 2 if bench.full else 1)):
        _plain(bench, request("warm up", side, steps=2))
        plain, ours = [], []
        for number in range(rounds):
            needed_s = bench.window_s * 1.5 + alone * (plain[-1] if plain else 5.0 * bench.full)
            if not section.fits(needed_s, f"round {number} at {side}"):
                break
            plain += [_timed_plain(bench, request("plain", side, n, steps=bench.steps)) for n in range(alone)]
            ours.append(closed_loop(bench, runner, times, side))
        if not ours:
            continue
        rate, plain_rate = median(o["pictures_per_s"] for o in ours), 1 / median(plain)
        section.add(
            side=side,
            pictures_per_s=rate,
            plain_pictures_per_s=plain_rate,
            ratio=rate / plain_rate,
            **_beside_denoising(bench, times, side, ours),
            plain_samples_s=plain,
            rounds=ours,
        )
        print(f"{side}: engine {rate:.3f}, plain {plain_rate:.3f} pictures/s, {rate * median(plain):.2f}x", flush=True)


def compiled(bench: Bench, section: Section) -> None:
    """The engine alone on the compiled model; batches of a shape that was not compiled run as they are."""
    runner = bench.kept.get("compiled graphed")
    if runner is None:
        section.skipped("all of it", "nothing was compiled in this run")
        return
    times = bench.times["compiled graphed"]
    torch.compiler.set_stance("eager_on_recompile")
    try:
        for side in (bench.large, bench.small):
            known = [rows for rows in bench.rows if times.estimate_s(bench.key(side), rows) is not None]
            if not known or (bench.full and max(known) < 16):  # noqa: PLR2004 - a batch that is worth it
                section.skipped(f"pictures at {side}", "no large batch of that size was compiled")
            elif section.fits(bench.window_s * 1.7, f"pictures at {side}"):
                ours = closed_loop(bench, runner, times, side, cap=max(known))
                section.add(side=side, **_beside_denoising(bench, times, side, [ours]), **ours)
                print(f"{side}: engine, compiled {ours['pictures_per_s']:.3f} pictures/s", flush=True)
    finally:
        torch.compiler.set_stance("default")


def parity(bench: Bench, section: Section) -> None:
    """How far the engine's latents are from plain diffusers', and plain diffusers' alone from those in a pair."""
    runner = bench.runner()
    one, other = (request(name, bench.small, n, steps=4) for n, name in enumerate(("one", "other")))
    state = runner.prepare(one)
    states = [state, runner.prepare(other)]
    while state.step < state.steps:
        runner.step(states)
    plain = _plain(bench, one, output_type="latent")[:1].float()
    paired = _plain(bench, one, output_type="latent", pair=True)[:1].float()
    section.add(
        side=bench.small,
        steps=one.steps,
        engine_in_company_from_plain=_relative(state.latents, plain),
        plain_in_a_pair_from_plain=_relative(paired, plain),
        finite=bool(torch.isfinite(state.latents).all()),
    )


def closed_loop(bench: Bench, runner: Runner, times: StepTimes, side: int, *, cap: int | None = None) -> dict[str, Any]:
    """Keep so many requests in the engine for a while; pictures per second are request-steps by steps."""
    reports: list[tuple[float, StepReport]] = []
    engine = Engine(
        runner,
        # A copy: what is measured in here, beside decoding, is not what was measured alone.
        Scheduler(max_batch_rows=cap or bench.most_rows, ageing_s=0.5, step_times=StepTimes.from_json(times.to_json())),
        max_resident_requests=IN_FLIGHT,
        decode_together=_DECODE_TOGETHER,
        on_step=lambda report: reports.append((time.perf_counter(), report)),
    )
    engine.start()
    numbers = itertools.count()

    def submit(steps: int) -> Future[Any]:
        number = next(numbers)
        return engine.submit(request(f"r{number}", side, number, steps=steps))

    # The first have fewer and fewer steps: from the start on requests come and go as they will later.
    in_flight = {submit(max(1, bench.steps * (n + 1) // IN_FLIGHT)) for n in range(IN_FLIGHT)}
    began_s, made = time.perf_counter(), []
    warm_s = began_s + 0.3 * bench.window_s
    try:
        while (left_s := warm_s + bench.window_s - time.perf_counter()) > 0:
            done, in_flight = wait(in_flight, timeout=left_s, return_when=FIRST_COMPLETED)
            made += [(time.perf_counter(), future.result().stats) for future in done]
            in_flight |= {submit(bench.steps) for _ in done}
    finally:
        engine.close()
        synchronize(bench.device)
    return _summary(bench, [r for r in reports if r[0] >= warm_s], [m for m in made if m[0] >= warm_s])


def _summary(bench: Bench, reports: list[tuple[float, StepReport]], made: list[tuple[float, Any]]) -> dict[str, Any]:
    if len(reports) < 2:  # noqa: PLR2004 - the first only begins the time
        raise RuntimeError("no two steps were run in the window")
    seconds = reports[-1][0] - reports[0][0]
    counted = [report for _, report in reports[1:]]
    return {
        "pictures_per_s": sum(report.requests for report in counted) / bench.steps / seconds,
        "seconds": seconds,
        "steps": len(counted),
        "mean_rows": sum(report.rows for report in counted) / len(counted),
        "pictures_done": len(made),
        "prepare_s": median([stats.prepare_s for _, stats in made] or [0.0]),
        "decode_s": median([stats.decode_s for _, stats in made] or [0.0]),
        "between_steps_s": [round(b[0] - a[0], 5) for a, b in itertools.pairwise(reports)],
    }


def _beside_denoising(bench: Bench, times: StepTimes, side: int, ours: list[dict[str, Any]]) -> dict[str, Any]:
    """The same as a share of what the steps alone would bring: what preparing, decoding and the loop cost."""
    rows = round(median(o["mean_rows"] for o in ours))
    step_s = times.estimate_s(bench.key(side), rows)
    if step_s is None:
        return {}
    alone = rows / 2 / bench.steps / step_s
    rate = median(o["pictures_per_s"] for o in ours)
    return {"steps_alone_pictures_per_s": alone, "share_of_steps_alone": rate / alone}


def _timed_plain(bench: Bench, one: Request) -> float:
    synchronize(bench.device)
    began_s = time.perf_counter()
    _plain(bench, one)
    synchronize(bench.device)
    return time.perf_counter() - began_s


@torch.inference_mode()
def _plain(bench: Bench, one: Request, *, output_type: str = "np", pair: bool = False) -> Any:  # noqa: ANN401
    """InstantID as plain diffusers runs it; only IdentityNet is given the identity instead of the text."""
    pipe = bench.pipeline
    embeds = torch.from_numpy(np.asarray(one.embedding)).reshape(1, 1, 1, -1)
    embeds = torch.cat([torch.zeros_like(embeds), embeds]).to(bench.device, bench.dtype)
    count = 2 if pair else 1
    tokens = pipe.unet.encoder_hid_proj.image_projection_layers[0](embeds[:, 0]).repeat_interleave(count, dim=0)

    def identitynet_forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - diffusers ships no types
        return ControlNetModel.forward(pipe.controlnet, *args, **{**kwargs, "encoder_hidden_states": tokens})

    pipe.controlnet.forward = identitynet_forward
    pipe.set_ip_adapter_scale(one.identity_strength)
    # In full precision and on the host, as the engine draws it: in another precision it is other noise.
    shape = (1, 4, one.height // bench.model.latent_scale, one.width // bench.model.latent_scale)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(one.seed + n)) for n in range(count)]
    made: Any = pipe(
        prompt=one.prompt,
        negative_prompt=one.negative_prompt,
        image=Image.fromarray(draw_landmarks(one.landmarks, one.width, one.height)),
        ip_adapter_image_embeds=[embeds],
        width=one.width,
        height=one.height,
        num_inference_steps=one.steps,
        guidance_scale=one.guidance_scale,
        controlnet_conditioning_scale=one.identitynet_strength,
        num_images_per_prompt=count,
        latents=torch.cat(noise).to(bench.device, bench.dtype),
        output_type=output_type,
    )
    return made.images


def _relative(actual: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((actual - wanted).norm() / wanted.norm())
