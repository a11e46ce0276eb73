"""Streams of a CUDA device, so that preparing and decoding run beside the steps. On other devices nothing of this."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

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


class Pace:
    """Lets the host run one step ahead of the device and no further: it never waits for the step it just queued."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Wait for all that was queued."""
        if self._device.type == "cuda":
            torch.cuda.default_stream(self._device).synchronize()

    def keep(self) -> None:
        """A step was queued: wait for the one before it."""
        if self._device.type != "cuda":
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        if self._before is not None:
            self._before.synchronize()
        self._before = event
