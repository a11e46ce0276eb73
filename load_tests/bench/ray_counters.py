"""The counters of a Ray node, read where Prometheus reads them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict

import httpx2
import ray

_LINE = re.compile(r"^(?P<name>ray_instantid_\w+_total)\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
_EVERY_S = 1.0


class RayCounters:
    """Remembers what each process counted last: what a killed one counted is soon forgotten by Ray."""

    def __init__(self) -> None:
        (node,) = ray.nodes()
        self._url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        self._seen: dict[str, dict[str, float]] = defaultdict(dict)

    async def follow(self) -> None:
        """Look every second, until canceled."""
        async with httpx2.AsyncClient(timeout=5.0, trust_env=False) as http:
            while True:
                await self._look(http)
                await asyncio.sleep(_EVERY_S)

    async def _look(self, http: httpx2.AsyncClient) -> None:
        with contextlib.suppress(httpx2.TransportError):
            for line in _LINE.finditer((await http.get(self._url)).text):
                counted = self._seen[line["name"].removeprefix("ray_")]
                counted[line["labels"]] = max(float(line["value"]), counted.get(line["labels"], 0.0))

    def total(self, name: str) -> float:
        """What all processes together counted, as far as Ray was told before they died."""
        return sum(self._seen[name].values())
