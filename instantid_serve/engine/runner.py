"""All tensor work of the engine: prepare a request, run one step of a batch, finish pictures.

A request owns its state for life; a batch lives for one step.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cachetools
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray

from instantid_serve.engine import sampler_state
from instantid_serve.engine.buffers import Buffers, Gathered, Numbers
from instantid_serve.engine.graphs import Graphs
from instantid_serve.engine.model import Model
from instantid_serve.engine.request import ShapeKey
from instantid_serve.engine.residuals import extended, only_where
from instantid_serve.engine.streams import Pace, beside_the_steps, lend_to_the_steps, uploaded
from instantid_serve.errors import NonFiniteOutputError
from instantid_serve.landmarks import draw_landmarks
from instantid_serve.messages import Checkpoint, Request

SHAPES = 4  # shapes whose buffers are kept; the one not used for longest goes first
_serials = itertools.count()

Observer = Callable[[str, int, NDArray[np.float32]], None]


@dataclasses.dataclass(slots=True, eq=False)
class State:
    """One request's tensors. ``latents``: (1, channels, h, w) float32. ``conditioning``: the model's own."""

    request: Request
    key: ShapeKey
    sampler: Any
    generator: torch.Generator
    step_kwargs: dict[str, Any]
    latents: torch.Tensor
    conditioning: Mapping[str, torch.Tensor]
    identitynet_strengths: list[float]  # one per step: 0 outside the request's window
    step: int = 0
    serial: int = dataclasses.field(default_factory=lambda: next(_serials))

    @property
    def rows(self) -> int:
        return self.request.rows

    @property
    def steps(self) -> int:
        return len(self.identitynet_strengths)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.latents.nbytes + sum(tensor.nbytes for tensor in self.conditioning.values())


class Runner:
    """Runs requests on one model. `prepare` and `finish` may run beside `step`, on other threads."""

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int = 16,
        exact_rows: int = 8,
        graphs: bool = False,
        observe: Observer | None = None,
    ) -> None:
        """``max_rows``: what buffers are made for. ``exact_rows``: of every batch in the fixed-bucket tier.

        With ``graphs`` forward passes are recorded and replayed as CUDA graphs, at row counts rounded up to powers of
        two. ``observe`` is told request id, steps done and latents after every step; it costs a copy to the host.
        """
        self._model, self._observe = model, observe
        self._max_rows, self._exact_rows = max_rows, exact_rows
        self._graphs = Graphs() if graphs else None
        self._pace = Pace(model.device)
        self._buffers: cachetools.LRUCache[ShapeKey, Buffers] = cachetools.LRUCache(SHAPES)

    @property
    def precision(self) -> str:
        """What the model computes in, as results declare it."""
        return self._model.precision

    @property
    def reserve_bytes(self) -> int:
        """What the buffers of further shapes may come to take, going by the largest so far."""
        largest = max((buffers.nbytes for buffers in self._buffers.values()), default=0)
        return largest * (SHAPES - len(self._buffers))

    def shape_key(self, request: Request) -> ShapeKey:
        """Return the key under which the request's rows may share a step with others."""
        scale = self._model.latent_scale
        return ShapeKey(
            request.height // scale, request.width // scale, exact_rows=self._exact_rows if request.exact else 0
        )

    def estimated_bytes(self, request: Request) -> int:
        """About how many bytes the request will hold for its life; its text is counted when it is prepared."""
        windows = 1 + max(len(request.prompt), len(request.negative_prompt)) // 300  # of 75 tokens, four letters each
        return request.rows * self._model.row_bytes(windows, request.height, request.width)

    @torch.inference_mode()
    def prepare(self, request: Request, checkpoint: Checkpoint | None = None) -> State:
        """Compute everything that stays the same over the request's steps, and draw its noise.

        With a checkpoint the request goes on where that was taken.
        """
        with beside_the_steps(self._model.device):
            state = self._new_state(request)
            if checkpoint is not None:
                self._resume(state, checkpoint)
            lend_to_the_steps([state.latents, *state.conditioning.values()])
        return state

    def _new_state(self, request: Request) -> State:
        model, guided = self._model, request.rows == 2  # noqa: PLR2004 - conditional and unconditional
        sampler, generator = self._new_sampler(request), torch.Generator().manual_seed(request.seed)
        face = torch.from_numpy(np.asarray(request.embedding, np.float32))
        conditioning = model.condition(
            [request.negative_prompt, request.prompt] if guided else [request.prompt],
            # The unconditional branch is nobody's face, projected: not zero tokens.
            [torch.zeros_like(face), face] if guided else [face],
            torch.from_numpy(draw_landmarks(request.landmarks, request.width, request.height)),
            scope=request.scope,
        )
        key = self.shape_key(request)
        if key.exact_rows:
            key = dataclasses.replace(key, text_tokens=conditioning["text"].shape[1])
        shape = (1, model.latent_channels, key.latent_height, key.latent_width)
        noise = randn_tensor(shape, generator=generator, device=model.device)
        return State(
            request=request,
            key=key,
            sampler=sampler,
            generator=generator,
            step_kwargs=_step_kwargs(sampler, generator),
            latents=noise * sampler.init_noise_sigma,
            conditioning=conditioning,
            identitynet_strengths=_window(request, len(sampler.timesteps)),
        )

    @torch.inference_mode()
    def step(self, states: Sequence[State]) -> dict[str, Exception]:
        """Run one step of every request. Returns the requests whose own sampler failed, with the error.

        An error of the forward pass is raised, and then no request has moved.
        """
        self._pace.begin()
        guided = self._forward(states)
        failed: dict[str, Exception] = {}
        for index, state in enumerate(states):
            try:
                self._advance(state, guided[index : index + 1])
            except Exception as error:  # noqa: BLE001 - whatever one sampler does must not touch its neighbours
                failed[state.request.id] = error
        self._pace.keep((states[0].key, sum(state.rows for state in states)))
        return failed

    @torch.inference_mode()
    def finish(self, states: Sequence[State]) -> list[NDArray[np.uint8] | NonFiniteOutputError]:
        """Decode finished latents of one shape together to (H, W, 3) uint8 RGB each; what is not finite is an error."""
        with beside_the_steps(self._model.device):
            latents = torch.cat([state.latents for state in states])
            finite = torch.isfinite(latents).flatten(1).all(dim=1).tolist()
            decoded = iter(self._model.decode(latents[finite]) if any(finite) else ())
        return [next(decoded) if good else NonFiniteOutputError("the latents are not finite") for good in finite]

    @torch.inference_mode()
    def checkpoint(self, state: State) -> Checkpoint:
        """Take what another engine needs to go on after the steps done so far, with the same bits."""
        return Checkpoint(
            step=state.step,
            latents=state.latents.cpu().numpy().copy(),
            sampler=sampler_state.exported(state.sampler, self._new_sampler(state.request)),
            noise=state.generator.get_state().numpy(),
        )

    def wait(self) -> None:
        """Wait until the device has done all steps: what was measured until then is the steps' own time."""
        self._pace.wait()

    def timings(self) -> list[tuple[tuple[ShapeKey, int], float]] | None:
        """Shape, rows and seconds of steps that the device has done; None where `step` returns when they are done."""
        return self._pace.timings()

    def _resume(self, state: State, checkpoint: Checkpoint) -> None:
        sampler_state.restore(state.sampler, checkpoint.sampler, self._model.device)
        state.generator.set_state(torch.from_numpy(checkpoint.noise.copy()))
        state.latents = torch.from_numpy(checkpoint.latents.copy()).to(self._model.device)
        state.step = checkpoint.step

    def _new_sampler(self, request: Request) -> Any:  # noqa: ANN401 - seventeen unrelated classes
        sampler = self._model.new_sampler(request.sampler, request.sampler_options)
        # On the host: what a sampler reads of its schedule is numbers, and no step may wait for the device to say them.
        sampler.set_timesteps(request.steps, device="cpu")
        return sampler

    def _forward(self, states: Sequence[State]) -> torch.Tensor:
        """One step of both networks; returns the guided output of each request, (requests, channels, h, w)."""
        key = states[0].key
        numbers = [
            Numbers(float(s.sampler.timesteps[s.step]), s.request.identity_strength, s.identitynet_strengths[s.step])
            for s in states
        ]
        buffers = self._buffers_of(key)
        padded_rows = self._padded(key, sum(s.rows for s in states))
        batch = buffers.gather(states, [_scaled(s) for s in states], numbers, padded_rows=padded_rows)
        output = self._networks(key, batch, buffers.generation)
        unconditional, conditional = buffers.scatter(output)
        scales = uploaded([s.request.guidance_scale if s.rows > 1 else 1.0 for s in states], output.device)
        scales = scales.view(-1, 1, 1, 1)
        return unconditional + scales * (conditional - unconditional)

    def _networks(self, key: ShapeKey, batch: Gathered, generation: int) -> torch.Tensor:
        if self._graphs is None:
            return self._both(batch, whole=bool(key.exact_rows))
        tokens = batch.conditioning["text"].shape[1]
        name = (generation, len(batch.latents), batch.working > 0, tokens, batch.text_mask is not None)
        return self._graphs.run(name, lambda: self._both(batch, whole=True))

    def _both(self, batch: Gathered, *, whole: bool) -> torch.Tensor:
        """IdentityNet and then the UNet.

        IdentityNet runs on the rows in front, whose strength is not 0 now; with ``whole`` on all rows or none, so that
        what is run does not depend on how many those are: for a recording, and for the fixed-bucket tier's bits.
        """
        residuals = None
        identitynet_rows = len(batch.latents) if whole and batch.working else batch.working
        if identitynet_rows:
            front = batch.first(identitynet_rows)
            residuals = self._model.identitynet(
                front.latents, front.timesteps, front.conditioning, front.identitynet_strengths
            )
            if whole:
                residuals = [only_where(r, batch.identitynet_strengths) for r in residuals]
            elif identitynet_rows < len(batch.latents):
                residuals = [extended(r, len(batch.latents)) for r in residuals]
        return self._model.unet(
            batch.latents,
            batch.timesteps,
            batch.conditioning,
            text_mask=batch.text_mask,
            identity_strengths=batch.identity_strengths,
            residuals=residuals,
        )

    def _padded(self, key: ShapeKey, rows: int) -> int:
        if key.exact_rows:
            return max(key.exact_rows, rows)
        return 1 << (rows - 1).bit_length() if self._graphs else rows

    def _buffers_of(self, key: ShapeKey) -> Buffers:
        if (buffers := self._buffers.get(key)) is None:
            shape = (self._model.latent_channels, key.latent_height, key.latent_width)
            buffers = self._buffers[key] = Buffers(self._max_rows, shape, self._model.device)
        return buffers

    def _advance(self, state: State, output: torch.Tensor) -> None:
        timestep = state.sampler.timesteps[state.step]
        state.latents = state.sampler.step(output, timestep, state.latents, **state.step_kwargs, return_dict=False)[0]
        state.step += 1
        if self._observe:
            self._observe(state.request.id, state.step, state.latents.cpu().numpy())


def _step_kwargs(sampler: Any, generator: torch.Generator) -> dict[str, Any]:  # noqa: ANN401 - 17 unrelated classes
    """Return what this sampler's `step` takes beyond the common arguments, as diffusers' pipelines hand it over."""
    taken = inspect.signature(sampler.step).parameters
    return {name: value for name, value in (("generator", generator), ("eta", 0.0)) if name in taken}


def _window(request: Request, steps: int) -> list[float]:
    """IdentityNet's strength at each step: diffusers' `control_guidance_start` and `_end` rule."""
    start, end = request.identitynet_start, request.identitynet_end
    inside = [not (i / steps < start or (i + 1) / steps > end) for i in range(steps)]
    return [request.identitynet_strength if kept else 0.0 for kept in inside]


def _scaled(state: State) -> torch.Tensor:
    scaled: torch.Tensor = state.sampler.scale_model_input(state.latents, state.sampler.timesteps[state.step])
    return scaled
