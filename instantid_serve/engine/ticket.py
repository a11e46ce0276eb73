"""A request from submit to its future's result: what the loop keeps of it besides its tensors."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import threading
import typing
from collections.abc import Callable
from concurrent.futures import Future

from instantid_serve.engine.request import Entry
from instantid_serve.errors import GenerationFailedError, InstantIDError
from instantid_serve.messages import Checkpoint, Picture, PictureStats, Progress, Request

if typing.TYPE_CHECKING:  # not at run time: who only wants to catch HandedOver does without torch
    from instantid_serve.engine.runner import State

log = logging.getLogger(__name__)
OnProgress = Callable[[Progress], None]


class HandedOver(Exception):  # noqa: N818 - no error: the request goes on elsewhere
    """The engine let go of a request between two steps. ``checkpoint``: where it stands, None if it took no step."""

    @property
    def checkpoint(self) -> Checkpoint | None:
        checkpoint: Checkpoint | None = self.args[0] if self.args else None
        return checkpoint


@dataclasses.dataclass(slots=True, eq=False)
class Ticket:
    """One submitted request. Times are seconds on the engine's clock. Only `settle` may run on any thread."""

    request: Request
    on_progress: OnProgress | None
    submitted_s: float
    checkpoint: Checkpoint | None = None  # where it goes on
    future: Future[Picture] = dataclasses.field(default_factory=Future)
    context: contextvars.Context = dataclasses.field(default_factory=contextvars.copy_context)  # for log lines
    state: State | None = None
    charged_bytes: int = 0
    prepare_s: float = 0.0
    first_step_s: float | None = None
    row_steps: int = 0
    max_batch_rows: int = 0
    _settled: bool = False
    _settling: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.checkpoint:
            self.row_steps, self.max_batch_rows = self.checkpoint.row_steps, self.checkpoint.max_batch_rows

    def moved(self, entry: Entry, batch_rows: int, began_s: float) -> None:
        """Count a step that ran in a batch of ``batch_rows`` rows, and tell the caller."""
        if self.first_step_s is None:
            self.first_step_s = began_s
        self.row_steps += batch_rows
        self.max_batch_rows = max(self.max_batch_rows, batch_rows)
        if self.on_progress is None:
            return
        try:
            self.on_progress(Progress(entry.steps_done, entry.steps, batch_rows))
        except Exception:  # noqa: BLE001 - a caller's callback must not end the device thread
            self._log(logging.WARNING, "the progress callback failed", exc_info=True)
            self.on_progress = None

    def stats(self, *, steps: int, denoised_s: float, decoded_s: float) -> PictureStats:
        """How the picture was made; ``denoised_s`` and ``decoded_s`` are when these ended."""
        first_step_s = denoised_s if self.first_step_s is None else self.first_step_s
        return PictureStats(
            waiting_s=first_step_s - self.submitted_s - self.prepare_s,
            prepare_s=self.prepare_s,
            denoise_s=self._denoised_before_s + denoised_s - first_step_s,
            decode_s=decoded_s - denoised_s,
            steps=steps,
            mean_batch_rows=self.row_steps / steps,
            max_batch_rows=self.max_batch_rows,
            moves=self.checkpoint.moves if self.checkpoint else 0,
        )

    def counted(self, checkpoint: Checkpoint, now_s: float) -> Checkpoint:
        """A checkpoint of this request, with what it cost so far."""
        return dataclasses.replace(
            checkpoint,
            denoise_s=self._denoised_before_s + (0.0 if self.first_step_s is None else now_s - self.first_step_s),
            row_steps=self.row_steps,
            max_batch_rows=self.max_batch_rows,
            moves=1 + (self.checkpoint.moves if self.checkpoint else 0),
        )

    @property
    def _denoised_before_s(self) -> float:
        return self.checkpoint.denoise_s if self.checkpoint else 0.0

    def settle(self, outcome: Picture | InstantIDError | HandedOver) -> None:
        """Give the caller the outcome, and let go of the tensors. The first outcome stands."""
        self.state = None
        with self._settling:
            settled, self._settled = self._settled, True
        if settled or not self.future.set_running_or_notify_cancel():
            return  # or the caller canceled the future itself and waits for nothing
        if isinstance(outcome, Picture):
            self.future.set_result(outcome)
        else:
            if isinstance(outcome, GenerationFailedError):  # its cause does not reach the caller
                self._log(logging.ERROR, "the picture could not be made", exc_info=outcome)
            self.future.set_exception(outcome)

    def _log(self, level: int, message: str, *, exc_info: BaseException | bool) -> None:
        """Write a line about this request. A copy, because two threads may do so and a context is entered once."""
        self.context.copy().run(log.log, level, message, exc_info=exc_info)


def named(error: Exception) -> InstantIDError:
    """Return one of our errors as it is, any other as GenerationFailedError with its cause kept."""
    if isinstance(error, InstantIDError):
        return error
    failure = GenerationFailedError(f"the picture could not be made: {type(error).__name__}")
    failure.__cause__ = error
    return failure
