"""Compare this project's loader and engine with golden outputs of the upstream InstantID pipeline.

A golden folder holds ``checkpoint/`` (a model folder), ``cases.json`` and ``expected.safetensors``: per case the face
embedding, the landmark picture, and the latents after the first and the last step, made by the upstream pipeline alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from instantid_serve.engine.loop import Engine
from instantid_serve.engine.runner import Runner
from instantid_serve.engine.scheduler import Scheduler
from instantid_serve.landmarks import draw_landmarks
from instantid_serve.messages import Picture, Request
from instantid_serve.models.instantid import InstantIDModel

TOLERANCE = 1e-4  # relative error of the latents (L2 norm), alone and in any company
MAX_BATCH_ROWS = 32

Tensors = Mapping[str, NDArray[Any]]


class InlineExecutor(Executor):
    """Runs what it is handed at once, so that a run has no threads and always the same order."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 - Executor's signature
        """Run ``fn`` now; an error it raises goes straight to the caller."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class _Run:
    """One engine without threads, and the latents it went through."""

    def __init__(self, model: InstantIDModel) -> None:
        self.latents: dict[tuple[str, int], NDArray[np.float32]] = {}
        self.pictures: dict[str, Future[Picture]] = {}
        self.max_batch_rows = 0
        inline = InlineExecutor()
        self.engine = Engine(
            Runner(model, observe=lambda id_, step, latents: self.latents.update({(id_, step): latents.copy()})),
            Scheduler(max_batch_rows=MAX_BATCH_ROWS, ageing_s=10.0),
            max_resident_requests=MAX_BATCH_ROWS,
            on_step=lambda report: setattr(self, "max_batch_rows", max(self.max_batch_rows, report.rows)),
            prepare_on=inline,
            decode_on=inline,
        )

    def join(self, request: Request) -> None:
        self.pictures[request.id] = self.engine.submit(request)

    def finish(self) -> None:
        while self.engine.tick() or any(not f.done() for f in self.pictures.values()):
            pass


def run(golden: Path, *, together: bool) -> Iterator[dict[str, Any]]:
    """Run every case of a golden folder; yield one JSON-able dict per case, whose ``ok`` says whether it passed.

    Alone, each case has an engine to itself. ``together``, all share one engine and join it one step apart.
    """
    cases = json.loads((golden / "cases.json").read_text())
    expected = load_file(golden / "expected.safetensors")
    model = InstantIDModel.load(golden / "checkpoint")
    groups = [cases] if together else [[case] for case in cases]
    for group in groups:
        session = _Run(model)
        for case in group:
            session.join(_request(case, expected))
            session.engine.tick()
        session.finish()
        for case in group:
            yield _compare(case, session, expected)


def _request(case: dict[str, Any], expected: Tensors) -> Request:
    return Request(
        id=case["name"],
        prompt=case["prompt"],
        negative_prompt=case["negative_prompt"],
        seed=case["seed"],
        width=case["width"],
        height=case["height"],
        embedding=expected[f"{case['name']}.embedding"],
        landmarks=np.asarray(case["kps"], np.float32),
        steps=case["steps"],
        guidance_scale=case["guidance_scale"],
        sampler=case["scheduler"]["class"],
        sampler_options=case["scheduler"].get("kwargs", {}),
        identity_strength=case["ip_adapter_scale"],
        identitynet_strength=case["controlnet_conditioning_scale"],
        identitynet_start=case["control_guidance_start"],
        identitynet_end=case["control_guidance_end"],
    )


def _compare(case: dict[str, Any], session: _Run, expected: Tensors) -> dict[str, Any]:
    name = case["name"]
    picture = session.pictures[name].result().pixels.astype(int)
    last = max(step for id_, step in session.latents if id_ == name)
    first_error = _relative_error(session.latents[name, 1], expected[f"{name}.latents_after_step_1"])
    error = _relative_error(session.latents[name, last], expected[f"{name}.latents"])
    landmarks = draw_landmarks(np.asarray(case["kps"], np.float32), case["width"], case["height"])
    landmarks_equal = bool(np.array_equal(landmarks, expected[f"{name}.kps_image"]))
    return {
        "case": name,
        "error_after_step_1": first_error,
        "error": error,
        "landmarks_equal": landmarks_equal,
        "max_pixel_difference": int(np.abs(picture - expected[f"{name}.image_uint8"][0]).max()),
        "max_batch_rows": session.max_batch_rows,
        "ok": landmarks_equal and first_error <= TOLERANCE and error <= TOLERANCE,
    }


def _relative_error(actual: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted))
