"""Forward passes recorded once as CUDA graphs and replayed: a step of thousands of launches becomes one."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import cachetools
import torch

RECORDINGS = 64  # kept; the one not replayed for longest goes first
_WARM_UPS = 3  # runs before recording, in which libraries choose their kernels and allocate their workspaces


class Graphs:
    """Recorded functions by name. Whatever a function reads must lie at the same addresses whenever it is run."""

    def __init__(self) -> None:
        self._recorded: cachetools.LRUCache[Hashable, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = cachetools.LRUCache(
            RECORDINGS
        )
        self._pool = torch.cuda.graph_pool_handle()
        # One for all recordings: libraries keep a workspace of tens of megabytes for every stream they have seen.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def run(self, name: Hashable, forward: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Run ``forward`` and return its output, which stays valid until anything is run next."""
        if name not in self._recorded:
            self._recorded[name] = self._record(forward)
        graph, output = self._recorded[name]
        graph.replay()
        return output

    def _record(self, forward: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                forward()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads prepare and decode on streams of their own meanwhile: only this thread's calls are recorded.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = forward()
        return graph, output
