import asyncio
import contextlib

import pytest
from doubles.engine import request
from doubles.stages import STATS
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from instantid_serve.errors import FaceNotFoundError, GenerationFailedError, OverloadedError, UnavailableError
from instantid_serve.messages import Progress
from instantid_serve.service.generation import Finished
from instantid_serve.serving.stages import ServeStages, translated


def remote(cause):
    """The error as a caller of a replica gets it."""
    return RayTaskError("analyze", "a traceback", cause, proctitle="p", pid=1, ip="127.0.0.1").as_instanceof_cause()


def test_an_error_of_ours_comes_back_as_itself_with_its_facts():
    error = FaceNotFoundError("there is no face", {"advice": "come closer"})

    with pytest.raises(FaceNotFoundError) as caught, translated():
        raise remote(error)

    assert type(caught.value) is FaceNotFoundError
    assert caught.value.facts == {"advice": "come closer"}


def test_an_unforeseen_error_of_a_replica_fails_the_job_and_names_only_its_class():
    with pytest.raises(GenerationFailedError) as caught, translated():
        raise remote(KeyError("a secret"))

    assert "KeyError" in caught.value.detail
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        ActorUnavailableError("gone", None),
        TaskCancelledError(),
        RequestCancelledError("r"),
        DeploymentUnavailableError("d"),
        TimeoutError(),
        remote(ObjectLostError("00" * 28, None, "")),
        remote(remote(ActorDiedError())),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_replica_that_died_or_is_away_is_worth_another_try(error):
    with pytest.raises(UnavailableError) as caught, translated():
        raise error

    assert caught.value.__cause__ is error


def test_backpressure_is_overload():
    with pytest.raises(OverloadedError), translated():
        raise BackPressureError(1, 1)


def test_a_cancel_of_the_caller_passes_untouched():
    with pytest.raises(asyncio.CancelledError), translated():
        raise asyncio.CancelledError


class Stream:
    """What a streaming call through a Serve handle returns."""

    def __init__(self, messages):
        self._messages = iter(messages)
        self.canceled = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            return next(self._messages)
        except StopIteration:
            raise StopAsyncIteration from None

    def cancel(self):
        self.canceled = True


class Handle:
    """A Serve handle whose every call returns the same."""

    def __init__(self, answer=None):
        self._answer = answer

    def options(self, **_options):
        return self

    def remote(self, *_args):
        return self._answer


class Outcomes(list):
    """Stage metrics that remember how each call ended."""

    def ran(self, stage, code, _seconds):
        self.append((stage, code))


async def test_a_generation_whose_picture_was_taken_counts_as_ok_and_is_not_canceled():
    stream, outcomes = Stream([Progress(1, 2, 2), Finished("pixels", STATS)]), Outcomes()
    stages = ServeStages(Handle(), Handle(stream), Handle(), outcomes)

    async with contextlib.aclosing(stages.generate(request("r"))) as messages:
        taken = [await anext(messages), await anext(messages)]  # as the dispatcher does: it leaves with the picture

    assert taken[-1].pixels == "pixels"
    assert outcomes == [("generate", "ok")]
    assert not stream.canceled


async def test_a_generation_left_early_is_canceled():
    stream, outcomes = Stream([Progress(1, 2, 2), Finished("pixels", STATS)]), Outcomes()
    stages = ServeStages(Handle(), Handle(stream), Handle(), outcomes)

    async with contextlib.aclosing(stages.generate(request("r"))) as messages:
        await anext(messages)

    assert outcomes == [("generate", "canceled")]
    assert stream.canceled
