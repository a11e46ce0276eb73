"""Streams of a CUDA device, so that preparing and decoding run beside the steps. On other devices nothing of this."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch

_own = threading.local()


@contextlib.contextmanager
def beside_the_steps(device: torch.device) -> Iterator[None]:
    """Run what follows on this thread's own stream, after the steps queued so far, and wait for it to be done."""
    if device.type != "cuda":
        yield
        return
    if not hasattr(_own, "stream"):
        _own.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    _own.stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(_own.stream):
        yield
    _own.stream.synchronize()


def lend_to_the_steps(tensors: Iterable[torch.Tensor]) -> None:
    """Keep the memory of tensors made beside the steps until the steps that read them are done, too."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.default_stream(tensor.device))


def uploaded(values: Sequence[Any], device: torch.device) -> torch.Tensor:
    """Numbers on the device, without waiting for what that still does: from pageable memory a copy may wait."""
    tensor = torch.tensor(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # kept by torch until the copy is done
    return tensor.to(device, non_blocking=True)


class Pace:
    """Lets the host run one step ahead of the device and no further: it never waits for the step it just queued.

    So the time between two calls says little of the step between them: it may be the host's alone, or that of the step
    before, of another size. The device times its steps itself.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_cuda = device, device.type == "cuda"
        self._start: torch.cuda.Event | None = None
        self._queued: deque[tuple[Hashable, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._timed: list[tuple[Hashable, float]] = []

    def begin(self) -> None:
        """A step is about to be queued."""
        self._start = self._event() if self._on_cuda else None

    def keep(self, what: Hashable) -> None:
        """The step was queued: wait for the one before it. ``what``: the name under which its time is told."""
        if self._start is None:
            return
        self._queued.append((what, self._start, self._event()))
        while len(self._queued) > 1:
            before, start, end = self._queued.popleft()
            end.synchronize()
            self._timed.append((before, start.elapsed_time(end) / 1e3))

    def wait(self) -> None:
        """Wait for all that was queued. Who does that measures by his own clock: times that were not told are gone."""
        if self._on_cuda:
            torch.cuda.default_stream(self._device).synchronize()
        self._queued.clear()
        self._timed.clear()

    def timings(self) -> list[tuple[Any, float]] | None:
        """Seconds of the steps done since this was last asked; None where a step is done when it is queued."""
        told, self._timed = self._timed, []
        return told if self._on_cuda else None

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
