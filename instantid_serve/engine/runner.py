"""All tensor work of the engine: prepare a request, run one step of a batch, finish a picture.

A request owns its state for life; a batch lives for one step. Rows of one request lie side by side, the
unconditional one first.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray

from instantid_serve.engine.request import ShapeKey
from instantid_serve.errors import NonFiniteOutputError
from instantid_serve.landmarks import draw_landmarks
from instantid_serve.messages import Checkpoint, Request

Residuals = tuple[list[torch.Tensor], torch.Tensor]


class TextConditioning(Protocol):
    """An encoded prompt: tokens (77 n, dim) and the pooled embedding (dim,)."""

    @property
    def tokens(self) -> torch.Tensor: ...
    @property
    def pooled(self) -> torch.Tensor: ...


class Model(Protocol):
    """What the runner needs of a model; `models.instantid.InstantIDModel` says what each argument is."""

    device: torch.device
    latent_channels: int
    latent_scale: int

    def new_sampler(self, class_name: str, options: Mapping[str, Any]) -> Any: ...  # noqa: ANN401
    def encode_prompts(self, prompts: Sequence[str]) -> Sequence[TextConditioning]: ...
    def identity_tokens(self, embeddings: torch.Tensor) -> torch.Tensor: ...
    def identitynet(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        *,
        identity_tokens: torch.Tensor,
        hints: torch.Tensor,
        strengths: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> Residuals: ...
    def unet(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        *,
        text: torch.Tensor,
        text_mask: torch.Tensor | None,
        identity_tokens: torch.Tensor,
        identity_strengths: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
        residuals: Residuals | None,
    ) -> torch.Tensor: ...
    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]: ...


@dataclasses.dataclass(slots=True, eq=False)
class State:
    """One request's tensors: (rows, ...) each, but for its latents, (1, channels, h, w) float32."""

    request: Request
    sampler: Any
    step_kwargs: dict[str, Any]
    latents: torch.Tensor
    text: torch.Tensor
    pooled: torch.Tensor
    identity_tokens: torch.Tensor
    hint: torch.Tensor
    time_ids: torch.Tensor
    identitynet_strengths: list[float]  # one per step: 0 outside the request's window
    generator: torch.Generator
    step: int = 0

    @property
    def rows(self) -> int:
        return self.request.rows

    @property
    def steps(self) -> int:
        return len(self.identitynet_strengths)


class Runner:
    """Runs requests on one model. `prepare` and `finish` may run beside `step`, on other threads."""

    def __init__(self, model: Model, observe: Callable[[str, int, NDArray[np.float32]], None] | None = None) -> None:
        """``observe`` is told request id, steps done and latents after every step; it costs a copy to the host."""
        self._model, self._observe = model, observe

    def shape_key(self, request: Request) -> ShapeKey:
        """Return the key under which the request's rows may share a step with others."""
        scale = self._model.latent_scale
        return ShapeKey(request.height // scale, request.width // scale)

    @torch.inference_mode()
    def prepare(self, request: Request, checkpoint: Checkpoint | None = None) -> State:
        """Encode what stays the same over the request's steps, and draw its noise or go on from ``checkpoint``."""
        model, guided = self._model, request.rows == 2  # noqa: PLR2004 - conditional and unconditional
        sampler = model.new_sampler(request.sampler, request.sampler_options)
        sampler.set_timesteps(request.steps, device=model.device)
        prompts = [request.negative_prompt, request.prompt] if guided else [request.prompt]
        texts = model.encode_prompts(prompts)
        face = torch.from_numpy(np.asarray(request.embedding, np.float32))
        generator = torch.Generator().manual_seed(request.seed)
        key = self.shape_key(request)
        noise = randn_tensor(
            (1, model.latent_channels, key.latent_height, key.latent_width), generator=generator, device=model.device
        )
        size = (request.height, request.width)
        state = State(
            request=request,
            sampler=sampler,
            step_kwargs=_step_kwargs(sampler, generator),
            generator=generator,
            latents=noise * sampler.init_noise_sigma,
            text=torch.stack([t.tokens for t in texts]),
            pooled=torch.stack([t.pooled for t in texts]),
            # The unconditional branch is nobody's face, projected: not zero tokens.
            identity_tokens=model.identity_tokens(torch.stack([torch.zeros_like(face), face] if guided else [face])),
            hint=self._hint(request).expand(request.rows, -1, -1, -1),
            time_ids=torch.tensor([[*size, 0, 0, *size]] * request.rows, device=model.device, dtype=torch.float32),
            identitynet_strengths=_window(request, len(sampler.timesteps)),
        )
        if checkpoint:
            state.step = checkpoint.step
            state.latents = torch.tensor(checkpoint.latents, device=model.device)
            generator.set_state(torch.tensor(checkpoint.noise))
            vars(sampler).update({name: _tensors(v, model.device) for name, v in checkpoint.sampler.items()})
        return state

    def checkpoint(self, state: State) -> Checkpoint:
        """Copy what the request's steps have changed so far."""
        fresh = self._model.new_sampler(state.request.sampler, state.request.sampler_options)
        fresh.set_timesteps(state.request.steps, device=self._model.device)
        before = vars(fresh)
        changed = {n: v for n, v in vars(state.sampler).items() if n not in before or not _same(v, before[n])}
        return Checkpoint(
            step=state.step,
            latents=state.latents.cpu().numpy().copy(),
            sampler={name: _arrays(value) for name, value in changed.items()},
            noise=state.generator.get_state().numpy().copy(),
        )

    @torch.inference_mode()
    def step(self, states: Sequence[State]) -> dict[str, Exception]:
        """Run one step of every request. Returns the requests whose own sampler failed, with the error.

        An error of the forward pass is raised, and then no request has moved.
        """
        output = self._forward(states)
        failed: dict[str, Exception] = {}
        for state, rows in zip(states, torch.split(output, [s.rows for s in states]), strict=True):
            try:
                self._advance(state, rows)
            except Exception as error:  # noqa: BLE001 - whatever one sampler does must not touch its neighbours
                failed[state.request.id] = error
        return failed

    @torch.inference_mode()
    def finish(self, state: State) -> NDArray[np.uint8]:
        """Decode the finished latents to (H, W, 3) uint8 RGB. Raises NonFiniteOutputError on NaN or infinity."""
        if not torch.isfinite(state.latents).all():
            raise NonFiniteOutputError("the latents are not finite")
        pixels: NDArray[np.uint8] = self._model.decode(state.latents)[0]
        return pixels

    def _hint(self, request: Request) -> torch.Tensor:
        picture = draw_landmarks(request.landmarks, request.width, request.height)
        return torch.from_numpy(picture).to(self._model.device).permute(2, 0, 1).unsqueeze(0).float() / 255.0

    def _forward(self, states: Sequence[State]) -> torch.Tensor:
        latents = torch.cat([_scaled(s).expand(s.rows, -1, -1, -1) for s in states])
        timesteps = torch.cat([s.sampler.timesteps[s.step].reshape(1).expand(s.rows) for s in states])
        text, text_mask = _pad_text([s.text for s in states])
        rows = {
            "pooled": torch.cat([s.pooled for s in states]),
            "time_ids": torch.cat([s.time_ids for s in states]),
            "identity_tokens": torch.cat([s.identity_tokens for s in states]),
        }
        strengths = _repeat(states, [s.request.identity_strength for s in states])
        return self._model.unet(
            latents,
            timesteps,
            text=text,
            text_mask=text_mask,
            identity_strengths=torch.tensor(strengths, device=latents.device),
            residuals=self._residuals(states, latents, timesteps, rows),
            **rows,
        )

    def _residuals(
        self, states: Sequence[State], latents: torch.Tensor, timesteps: torch.Tensor, rows: dict[str, torch.Tensor]
    ) -> Residuals | None:
        """Run IdentityNet on the rows whose strength is not 0 now; the others get exact zeros."""
        now = _repeat(states, [s.identitynet_strengths[s.step] for s in states])
        chosen = [row for row, strength in enumerate(now) if strength != 0.0]
        if not chosen:
            return None
        strengths = torch.tensor(now, device=latents.device)
        hints = torch.cat([s.hint for s in states])
        if len(chosen) == len(now):
            return self._model.identitynet(latents, timesteps, hints=hints, strengths=strengths, **rows)
        at = torch.tensor(chosen, device=latents.device)
        active = {name: value[at] for name, value in rows.items()}
        down, mid = self._model.identitynet(
            latents[at], timesteps[at], hints=hints[at], strengths=strengths[at], **active
        )
        return [_scatter(d, at, len(now)) for d in down], _scatter(mid, at, len(now))

    def _advance(self, state: State, output: torch.Tensor) -> None:
        if state.rows == 1:
            noise = output
        else:
            unconditional, conditional = output.chunk(2)
            noise = unconditional + state.request.guidance_scale * (conditional - unconditional)
        timestep = state.sampler.timesteps[state.step]
        state.latents = state.sampler.step(noise, timestep, state.latents, **state.step_kwargs, return_dict=False)[0]
        state.step += 1
        if self._observe:
            self._observe(state.request.id, state.step, state.latents.cpu().numpy())


def _step_kwargs(sampler: Any, generator: torch.Generator) -> dict[str, Any]:  # noqa: ANN401 - 17 unrelated classes
    """Return what this sampler's `step` takes beyond the common arguments, as diffusers' pipelines hand it over."""
    taken = inspect.signature(sampler.step).parameters
    return {name: value for name, value in (("generator", generator), ("eta", 0.0)) if name in taken}


def _same(left: Any, right: Any) -> bool:  # noqa: ANN401 - whatever a sampler keeps
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return left.shape == right.shape and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return type(left) is type(right) and bool(np.all(left == right))


def _arrays(value: Any) -> Any:  # noqa: ANN401 - whatever a sampler keeps
    if isinstance(value, torch.Tensor):
        return value.cpu().numpy().copy()
    return [_arrays(item) for item in value] if isinstance(value, list) else value


def _tensors(value: Any, device: torch.device) -> Any:  # noqa: ANN401 - whatever a sampler keeps
    if isinstance(value, np.ndarray):
        return torch.tensor(value, device=device)
    return [_tensors(item, device) for item in value] if isinstance(value, list) else value


def _window(request: Request, steps: int) -> list[float]:
    """IdentityNet's strength at each step: diffusers' `control_guidance_start` and `_end` rule."""
    start, end = request.identitynet_start, request.identitynet_end
    inside = [not (i / steps < start or (i + 1) / steps > end) for i in range(steps)]
    return [request.identitynet_strength if kept else 0.0 for kept in inside]


def _scaled(state: State) -> torch.Tensor:
    scaled: torch.Tensor = state.sampler.scale_model_input(state.latents, state.sampler.timesteps[state.step])
    return scaled


def _repeat(states: Sequence[State], values: Sequence[float]) -> list[float]:
    """One value per request to one value per row."""
    return [value for state, value in zip(states, values, strict=True) for _ in range(state.rows)]


def _pad_text(texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Stack prompts of different lengths, with a mask that keeps the padding out of attention."""
    longest = max(t.shape[1] for t in texts)
    if all(t.shape[1] == longest for t in texts):
        return torch.cat(list(texts)), None
    padded = [torch.nn.functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in texts]
    mask = [torch.arange(longest, device=t.device).lt(t.shape[1]).expand(len(t), -1) for t in texts]
    return torch.cat(padded), torch.cat(mask)


def _scatter(values: torch.Tensor, active: torch.Tensor, rows: int) -> torch.Tensor:
    out = values.new_zeros((rows, *values.shape[1:]))
    return out.index_copy_(0, active, values)
