"""B0 and B1: what one would write with diffusers alone. Nothing here shares code with the engine's forward path.

B0 is diffusers' SDXL ControlNet pipeline with the identity adapter, one request per call. B1 puts requests of identical
steps, guidance, sampler and size into one call, as a handler behind Ray Serve's ``@serve.batch`` would.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
import transformers
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from PIL import Image

from instantid_serve.landmarks import draw_landmarks
from instantid_serve.messages import Request
from instantid_serve.models.conversion import read_ip_adapter


class IdentityNet(ControlNetModel):
    """InstantID's difference from a ControlNet: it is given the identity tokens where the text would be."""

    tokens: torch.Tensor | None = None
    first_forward_s: float | None = None  # on time.monotonic, as the engine's clock

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - diffusers' own signature
        """Note when the first step began, and swap the text for the tokens."""
        if self.first_forward_s is None:
            self.first_forward_s = time.monotonic()
        return super().forward(*args, **{**kwargs, "encoder_hidden_states": self.tokens})


class IdentityPipeline(StableDiffusionXLControlNetPipeline):
    """The stock pipeline, but that several people may share a call.

    The stock method repeats what it is given once per prompt, which lays everybody's tokens into every row.
    """

    def prepare_ip_adapter_image_embeds(
        self,
        ip_adapter_image: Any,  # noqa: ANN401, ARG002 - the signature it overrides
        ip_adapter_image_embeds: Any,  # noqa: ANN401
        *_: object,
    ) -> Any:  # noqa: ANN401
        """Return the tokens as they are: a row each, [nobody A, nobody B, A, B]."""
        return ip_adapter_image_embeds


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """What a call made, and when (time.monotonic) its first step began and the call returned."""

    images: Any
    first_step_s: float
    done_s: float


class PlainDiffusers:
    """The pipeline, loaded once. `call` takes any requests that have the same `call_key`."""

    def __init__(self, folder: Path) -> None:
        for library in (diffusers.utils.logging, transformers.utils.logging):
            library.set_verbosity_error()
            library.disable_progress_bar()
        net = IdentityNet.from_pretrained(folder / "ControlNetModel")
        pipe = IdentityPipeline.from_pretrained(folder / "base", controlnet=net, local_files_only=True)
        adapter = read_ip_adapter(folder / "ip-adapter.safetensors")
        pipe.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)
        pipe.set_progress_bar_config(disable=True)
        # InstantID projects a face once per call; diffusers' UNet would project it again at every step.
        self._project = pipe.unet.encoder_hid_proj.image_projection_layers[0]
        pipe.unet.encoder_hid_proj = torch.nn.Identity()
        self._pipe, self._net = pipe, net
        self._sampler_config = dict(pipe.scheduler.config)

    @torch.inference_mode()
    def call(self, requests: Sequence[Request], output_type: str = "pil") -> Made:
        """Make the pictures of some requests that have one `call_key`, together and to their end."""
        first = requests[0]
        embeddings = torch.stack([torch.from_numpy(r.embedding) for r in requests]).reshape(-1, 1, 512)
        if first.rows > 1:
            embeddings = torch.cat([torch.zeros_like(embeddings), embeddings])  # [nobody A, nobody B, A, B]
        self._net.tokens = tokens = self._project(embeddings)
        self._net.first_forward_s = None
        sampler = getattr(diffusers, first.sampler)
        self._pipe.scheduler = sampler.from_config(self._sampler_config, **first.sampler_options)
        self._pipe.set_ip_adapter_scale(first.identity_strength)
        images = self._pipe(
            prompt=[r.prompt for r in requests],
            negative_prompt=[r.negative_prompt for r in requests] if first.negative_prompt else None,
            image=[Image.fromarray(draw_landmarks(r.landmarks, r.width, r.height)) for r in requests],
            ip_adapter_image_embeds=[tokens.unsqueeze(1)],  # (rows, images, tokens, dim)
            width=first.width,
            height=first.height,
            num_inference_steps=first.steps,
            guidance_scale=first.guidance_scale,
            controlnet_conditioning_scale=first.identitynet_strength,
            control_guidance_start=first.identitynet_start,
            control_guidance_end=first.identitynet_end,
            generator=[torch.Generator().manual_seed(r.seed) for r in requests],
            output_type=output_type,
        ).images
        return Made(images, self._net.first_forward_s or time.monotonic(), time.monotonic())


def call_key(request: Request) -> Hashable:
    """Return what requests must have in common to share a call: one call takes one value of each of these."""
    return (
        request.steps,
        request.guidance_scale,
        request.sampler,
        tuple(sorted(request.sampler_options.items())),
        request.width,
        request.height,
        # Also one per call. Traffic for B1 leaves them alone, so that they split nothing.
        request.identity_strength,
        request.identitynet_strength,
        request.identitynet_start,
        request.identitynet_end,
        bool(request.negative_prompt),
    )


def groups(requests: Sequence[Request], max_rows: int) -> Iterator[list[Request]]:
    """Split a batch by `call_key`, in order of arrival, and each group at ``max_rows`` rows."""
    by_key: dict[Hashable, list[Request]] = {}
    for request in requests:
        by_key.setdefault(call_key(request), []).append(request)
    for group in by_key.values():
        size = max(1, max_rows // group[0].rows)
        yield from (group[at : at + size] for at in range(0, len(group), size))


class StaticBatcher:
    """A queue before `PlainDiffusers` with the policy of ``@serve.batch``, on one thread.

    The policy is that of ``ray/serve/batching.py`` (2.60): block for the first request, then take what comes within
    ``wait_timeout_s`` up to ``max_batch_requests``, hand the batch to the handler, and begin the next when it returned.
    Ray's own decorator only runs inside a Serve replica, whose processes would fight the benchmark for its two cores.
    In the baseline's favour a request is done when its group is, not when its whole batch is.
    With ``max_batch_requests=1`` this is B0 behind a queue.
    """

    def __init__(
        self, plain: PlainDiffusers, *, max_batch_requests: int, max_rows: int, wait_timeout_s: float = 0.01
    ) -> None:
        self._plain = plain
        self._max_requests, self._max_rows, self._wait_timeout_s = max_batch_requests, max_rows, wait_timeout_s
        self._inbox: queue.SimpleQueue[tuple[Request, Future[Made]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="static-batcher", daemon=True)
        self.batches: list[list[int]] = []  # per batch, the sizes of its groups

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._inbox.put(None)
        self._thread.join()

    def submit(self, request: Request) -> Future[Made]:
        """Queue a request."""
        future: Future[Made] = Future()
        self._inbox.put((request, future))
        return future

    def _run(self) -> None:
        while (first := self._inbox.get()) is not None:
            batch, open_ = [first], True
            until_s = time.monotonic() + self._wait_timeout_s
            while open_ and len(batch) < self._max_requests:
                try:
                    item = self._inbox.get(timeout=max(0.0, until_s - time.monotonic()))
                except queue.Empty:
                    break
                if item is None:
                    open_ = False
                else:
                    batch.append(item)
            self._handle(batch)
            if not open_:
                return

    def _handle(self, batch: list[tuple[Request, Future[Made]]]) -> None:
        futures = {request.id: future for request, future in batch}
        sizes = []
        for group in groups([request for request, _ in batch], self._max_rows):
            made = self._plain.call(group)
            sizes.append(len(group))
            for request in group:
                futures[request.id].set_result(made)
        self.batches.append(sizes)
