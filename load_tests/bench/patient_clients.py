"""Clients that hand in jobs at a steady rate, and repeat with the same key whatever was not answered."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping

import httpx2

from instantid_serve.service.backoff import backoff_s

TIMEOUT_S = 10.0
PATIENCE_S = 120.0
_ACCEPTED = 202
_TRY_AGAIN = frozenset({429, 500, 502, 503, 504})


@dataclasses.dataclass
class PatientClients:
    """Job i has the key ``job-<i>`` and ``seeds`` seeds in turn; ``answered[i]`` are all ids that came back for it."""

    url: str
    api_key: str
    photo: bytes
    form: Mapping[str, str]
    seeds: int
    answered: dict[int, set[str]] = dataclasses.field(default_factory=dict)
    unanswered: int = 0  # requests that were refused, cut off or answered by an error, and so repeated
    repeated: set[int] = dataclasses.field(default_factory=set)  # the jobs of those

    async def hand_in(self, jobs: int, rate_per_s: float) -> None:
        """Hand in so many jobs, open loop: nobody waits for anybody else."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with self._http() as http, asyncio.TaskGroup() as group:
            for number in range(jobs):
                await asyncio.sleep(max(0.0, began_s + number / rate_per_s - loop.time()))
                group.create_task(self._hand_in(http, number))

    async def ask_again(self) -> None:
        """Repeat every request that needed a repetition once more, now that all is quiet."""
        async with self._http() as http:
            for number in sorted(self.repeated):
                await self._hand_in(http, number)

    def _http(self) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    async def _hand_in(self, http: httpx2.AsyncClient, number: int) -> None:
        failures = 0
        async with asyncio.timeout(PATIENCE_S):
            while (job_id := await self._once(http, number)) is None:
                failures += 1
                self.unanswered += 1
                self.repeated.add(number)
                await asyncio.sleep(backoff_s(failures))
        self.answered.setdefault(number, set()).add(job_id)

    async def _once(self, http: httpx2.AsyncClient, number: int) -> str | None:
        """The job's id; None where only a repetition can tell whether there is one. Raises for what none can help."""
        form, files = {**self.form, "seed": number % self.seeds}, {"image": ("photo.jpg", self.photo, "image/jpeg")}
        headers = {"Idempotency-Key": f"job-{number}"}
        try:
            response = await http.post("/v1/generations", data=form, files=files, headers=headers)
        except httpx2.TransportError:
            return None
        if response.status_code in _TRY_AGAIN:
            return None
        if response.status_code != _ACCEPTED:
            raise RuntimeError(f"job {number}: {response.status_code} {response.text[:500]}")
        return str(response.json()["id"])
