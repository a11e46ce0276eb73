"""The Python SDK: a small synchronous client of the HTTP API.

A job's id is in the caller's hands before anything is waited for, so no picture that was paid for is ever lost::

    with Client("http://127.0.0.1:8000", api_key) as client:
        job = client.submit("me.jpg", "an oil portrait", seed=7)
        print(job.id)
        job = client.wait(job)
        picture = client.fetch(job, 0)

Errors are the ones of :mod:`instantid_serve.errors`, rebuilt from the stable ``code`` the service answers.
"""

from __future__ import annotations

import dataclasses
import random
import time
import typing
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote, urlsplit

from instantid_serve.errors import CallerError, DeadlineError, ServiceError, UnavailableError
from instantid_serve.messages import FaceChoice, Fit, ImageFormat
from instantid_serve.problems import rebuild_error
from instantid_serve.told_job import Job

if typing.TYPE_CHECKING:
    import httpx2

_FIRST_POLL_S = 0.1
_LONGEST_POLL_S = 1.0
_LEAST_TIMEOUT_S = 0.01
_UNFIT_KEY = "the API key is not one that a header can carry"


class Parameters(TypedDict, total=False):
    """What a generation may name besides its photo and prompt; the service fills in the rest.

    The meanings are those of :class:`instantid_serve.messages.GenerationSpec`. Sizes are pixels.
    """

    negative_prompt: str
    seed: int
    count: int
    width: int
    height: int
    fit: Fit
    face: FaceChoice
    steps: int
    guidance_scale: float
    sampler: str
    identity_strength: float
    identitynet_strength: float
    identitynet_start: float
    identitynet_end: float
    output_format: ImageFormat
    quality: int


@dataclasses.dataclass(frozen=True, slots=True)
class Retries:
    """How calls that are safe to repeat are: with delays from 0 to a ceiling that doubles; ``seed`` fixes them."""

    attempts: int = 4
    first_delay_s: float = 0.1
    longest_delay_s: float = 2.0
    seed: int | None = None


class Client:
    """Talks to one service with one API key. Not shared between threads; close it, or use it in a ``with``.

    Every call ends within about ``timeout_s`` seconds, its retries included, and raises the errors of
    :mod:`instantid_serve.errors`; UnavailableError stands for a network fault, too.
    """

    def __init__(self, base_url: str, api_key: str, timeout_s: float = 30.0, retries: Retries | None = None) -> None:
        import httpx2  # noqa: PLC0415 - 150 ms that the command line and a mere type annotation need not pay

        if not api_key.isascii():
            raise CallerError(_UNFIT_KEY)
        # A laptop's proxy settings are not meant for a server on the same machine.
        loopback = urlsplit(base_url).hostname in {"localhost", "127.0.0.1", "::1"}
        self._http = httpx2.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=timeout_s,
            trust_env=not loopback,
        )
        self._timeout_s = timeout_s
        self._retries = retries or Retries()
        self._random = random.Random(self._retries.seed)  # noqa: S311 - jitter, not a secret

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, photo: bytes | str | Path, prompt: str, **parameters: Unpack[Parameters]) -> Job:
        """Hand in a job and return at once: ``photo`` is a path, or the bytes of a JPEG, PNG or WebP.

        When this returns the service has committed the job and will not lose it.
        """
        content = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        response = self._call(
            "POST",
            "/v1/generations",
            data={name: str(value) for name, value in {"prompt": prompt, **parameters}.items()},
            files={"image": ("photo", content, _media_type(content))},
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        return Job.from_json(_json(response))

    def get(self, job: Job | str) -> Job:
        """Return the job as it stands now."""
        return Job.from_json(_json(self._call("GET", _path(job))))

    def wait(self, job: Job | str, timeout_s: float = 600.0, on_progress: Callable[[Job], object] | None = None) -> Job:
        """Poll until the job is done and return it, failed or not; ``on_progress`` is called with every state seen.

        Raises DeadlineError when it is not done after ``timeout_s``; it goes on, and can be waited for again by its id.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = _FIRST_POLL_S
        while True:
            state = self._look(job, deadline)
            if state is not None and on_progress is not None:
                on_progress(state)
            if state is not None and state.done:
                return state
            if time.monotonic() + pause_s > deadline:
                job_id = job.id if isinstance(job, Job) else job
                raise DeadlineError(f"{job_id} is not done after {timeout_s:g} s; it goes on", {"job": job_id})
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_POLL_S)

    def _look(self, job: Job | str, deadline: float) -> Job | None:
        """The job's state; None while the service is away, which a waiting caller need not know before its deadline."""
        try:
            return self.get(job)
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            return None

    def fetch(self, job: Job | str, index: int) -> bytes:
        """Return the bytes of the job's picture ``index``, counted from 0."""
        return self._call("GET", f"{_path(job)}/images/{index}").content

    def cancel(self, job: Job | str) -> Job:
        """Ask for the job to stop, which it does between two denoising steps. A job that is done stays as it is."""
        return Job.from_json(_json(self._call("POST", f"{_path(job)}/cancel", repeatable=True)))

    def ready(self) -> bool:
        """Whether the service answers and has made its warm-up picture."""
        try:
            return self._send("GET", "/readyz").is_success
        except UnavailableError:
            return False

    def _call(self, method: str, path: str, *, repeatable: bool | None = None, **content: Any) -> httpx2.Response:  # noqa: ANN401 - handed on to httpx2, which types it
        """Send, repeat what is safe to repeat, and raise what the service answered unless it is a success."""
        deadline = time.monotonic() + self._timeout_s
        for attempt in range(1, self._retries.attempts + 1):
            try:
                # What is left of the call's time is all that a repetition may wait for.
                left_s = max(deadline - time.monotonic(), _LEAST_TIMEOUT_S)
                return _checked(self._send(method, path, timeout=left_s, **content))
            except UnavailableError as error:
                safe = method == "GET" if repeatable is None else repeatable
                # A submission is sent again only when it cannot have arrived: its answer may be lost, its job not.
                safe = safe or bool(error.facts.get("never_sent"))
                delay_s = max(self._delay_s(attempt), float(error.facts.get("retry_after_s", 0.0)))
                if not safe or attempt == self._retries.attempts or time.monotonic() + delay_s > deadline:
                    raise
                time.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    def _delay_s(self, attempt: int) -> float:
        ceiling = min(self._retries.first_delay_s * 2 ** (attempt - 1), self._retries.longest_delay_s)
        return self._random.uniform(0.0, ceiling)

    def _send(self, method: str, path: str, **content: Any) -> httpx2.Response:  # noqa: ANN401 - as above
        """One exchange. The only place where the transport's errors become ours."""
        import httpx2  # noqa: PLC0415 - loaded since __init__

        try:
            return self._http.request(method, path, **content)
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise CallerError(f"{self._http.base_url} is not an http or https address") from error
        except httpx2.LocalProtocolError as error:  # its text is not repeated: it would show the key
            raise CallerError(_UNFIT_KEY) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise UnavailableError(f"cannot connect to {self._http.base_url}", {"never_sent": True}) from error
        except httpx2.TimeoutException as error:
            raise UnavailableError(f"no answer within {self._timeout_s:g} s") from error
        except httpx2.RequestError as error:
            raise UnavailableError(f"the connection failed: {type(error).__name__}") from error


def _checked(response: httpx2.Response) -> httpx2.Response:
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):  # a proxy or a load balancer answered, not the service
        problem = {"detail": f"the answer is HTTP {response.status_code} without a problem description"}
    if (seconds := response.headers.get("Retry-After", "")).isdigit():
        problem["retry_after_s"] = int(seconds)
    raise rebuild_error(problem, response.status_code)


def _json(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as error:
        raise ServiceError("the answer is not JSON: is this the address of the service?") from error
    if not isinstance(body, dict) or not {"id", "status", "done"} <= body.keys():
        raise ServiceError("the answer is not a job: is this the address of the service?")
    return body


def _path(job: Job | str) -> str:
    return "/v1/generations/" + quote(job.id if isinstance(job, Job) else job, safe="")


def _media_type(content: bytes) -> str:
    if content.startswith(b"\x89PNG"):
        return "image/png"
    if content.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if content[8:12] == b"WEBP" else "application/octet-stream"
