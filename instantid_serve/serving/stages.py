"""The stages as the dispatcher calls them, over Serve handles; Ray's errors become ours here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from instantid_serve.errors import (
    GenerationFailedError,
    InstantIDError,
    OverloadedError,
    UnavailableError,
)
from instantid_serve.log_context import logged_fields
from instantid_serve.messages import Checkpoint, GenerationSpec, Progress, Request, StoredImage
from instantid_serve.service.backoff import backoff_s
from instantid_serve.service.generation import Finished, Interrupted, Subject
from instantid_serve.serving.telemetry import StageMetrics


class ServeStages:
    """Implements :class:`instantid_serve.service.generation.Stages` with three deployments."""

    def __init__(
        self,
        analyzer: DeploymentHandle,
        generator: DeploymentHandle,
        publisher: DeploymentHandle,
        metrics: StageMetrics,
    ) -> None:
        # By reference in every transport: with RAY_SERVE_USE_GRPC_BY_DEFAULT a call would be limited to 4 MiB, and
        # the reference to the pixels would be serialised outside Ray's counting and never be freed.
        self._analyze = analyzer.options(method_name="analyze", _by_reference=True)
        self._generate = generator.options(method_name="generate", stream=True, _by_reference=True)
        self._ping = generator.options(method_name="ping")
        self._publish = publisher.options(method_name="publish", _by_reference=True)
        self._metrics = metrics
        self._heard_s = -float("inf")

    async def analyze(self, photos: tuple[str, ...], spec: GenerationSpec) -> Subject:
        """Find the spec's face in the stored photos."""
        with self._measured("analyze"):
            subject: Subject = await self._analyze.remote(photos, spec, logged_fields())
            return subject

    async def generate(self, request: Request) -> AsyncGenerator[Progress | Finished]:
        """Denoise one picture. Closing the iterator early cancels the call, and with it the request in the engine.

        A replica that is being stopped hands the request back between two steps, and it goes on in another one.
        """
        finished = checkpoint = None
        refusals = 0
        with self._measured("generate"):
            while True:
                last = None
                async with contextlib.aclosing(self._one_call(request, checkpoint)) as messages:
                    async for last in messages:
                        if isinstance(last, Progress):
                            yield last
                if not isinstance(last, Interrupted):
                    break
                if last.checkpoint:
                    checkpoint, refusals = last.checkpoint, 0
                    self._metrics.moved()
                else:
                    # Serve may not know yet that it is being stopped, and would send the request there again.
                    refusals += 1
                    await asyncio.sleep(backoff_s(refusals))
            # Handed on below: who takes it leaves at once, and that is no cancel.
            finished = last if isinstance(last, Finished) else None
        if finished:
            yield finished

    async def _one_call(
        self, request: Request, checkpoint: Checkpoint | None
    ) -> AsyncGenerator[Progress | Finished | Interrupted]:
        # A clock is its machine's own: what travels is the time that is left.
        left_s = None if request.deadline_s is None else request.deadline_s - time.monotonic()
        stream = self._generate.remote(request, checkpoint, left_s, logged_fields())
        try:
            messages = await stream._to_object_ref_gen()  # noqa: SLF001 - named so, but a documented developer API
            async for reference in messages:
                message = await reference
                self._heard_s = time.monotonic()
                if isinstance(message, Finished):  # the pixels come next; they are the publisher's to read
                    message = dataclasses.replace(message, pixels=await anext(messages))
                yield message
                if not isinstance(message, Progress):
                    return
        except BaseException:  # also GeneratorExit and CancelledError: whoever leaves, the engine must not go on
            stream.cancel()
            raise

    async def publish(self, finished: Finished, key: str, spec: GenerationSpec, seed: int) -> StoredImage:
        """Encode a picture and store it under the key."""
        with self._measured("publish"):
            stored: StoredImage = await self._publish.remote(finished, key, spec, seed, logged_fields())
            return stored

    async def wait_for_generator(self, *, recently_s: float) -> None:
        """Return when a generator answers, at once if one was heard in the last ``recently_s``. Raises our errors.

        A replica takes calls only after its warm-up picture, so any answer means a warm one. One that is busy may
        have no room for the question: what it was heard saying counts instead.
        """
        if time.monotonic() - self._heard_s < recently_s:
            return
        with translated():
            await self._ping.remote()
        self._heard_s = time.monotonic()

    @contextlib.contextmanager
    def _measured(self, stage: str) -> Iterator[None]:
        began_s = time.monotonic()
        code = "canceled"
        try:
            with translated():
                yield
            code = "ok"
        except InstantIDError as error:
            code = error.code
            raise
        finally:
            self._metrics.ran(stage, code, time.monotonic() - began_s)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise one of our errors for whatever a call through a Serve handle raises; the cause is kept."""
    try:
        yield
    except RayTaskError as error:
        raise _from_task(error.cause) from error
    except BackPressureError as error:
        raise OverloadedError("this stage has no room now") from error
    except (RayError, RayServeException, TimeoutError) as error:
        # A replica that died, is starting, was stopped or does not answer: another one can do the same work.
        raise UnavailableError(f"a stage cannot be reached: {type(error).__name__}") from error


def _from_task(cause: Any) -> InstantIDError:  # noqa: ANN401 - whatever a replica raised
    if isinstance(cause, InstantIDError):
        return cause
    if isinstance(cause, RayTaskError):
        return _from_task(cause.cause)
    if isinstance(cause, (RayError, RayServeException)):  # for example pixels whose owner died before they were read
        return UnavailableError(f"a stage lost what it needs: {type(cause).__name__}")
    return GenerationFailedError(f"a stage failed: {type(cause).__name__}")
