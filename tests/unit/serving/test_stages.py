import asyncio
import contextlib

import numpy as np
import pytest
from doubles.engine import request
from doubles.stages import STATS
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from instantid_serve.errors import FaceNotFoundError, GenerationFailedError, OverloadedError, UnavailableError
from instantid_serve.messages import Checkpoint, Progress
from instantid_serve.service.generation import Finished, Interrupted
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


class Reference:
    """A reference to a message in the object store."""

    def __init__(self, message):
        self.message = message
        self.read = False

    def __await__(self):
        self.read = True
        yield from asyncio.sleep(0).__await__()
        if isinstance(self.message, Exception):
            raise self.message
        return self.message


class Stream:
    """What a streaming call through a Serve handle returns, and the references it is made of."""

    def __init__(self, messages):
        self._messages = iter(messages)
        self.canceled = False

    async def _to_object_ref_gen(self):
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            return Reference(next(self._messages))
        except StopIteration:
            raise StopAsyncIteration from None

    def cancel(self):
        self.canceled = True


class Handle:
    """A Serve handle whose calls return the answers in turn."""

    def __init__(self, *answers):
        self._answers = iter(answers)
        self.calls = []

    def options(self, **_options):
        return self

    def remote(self, *args):
        self.calls.append(args)
        return next(self._answers)


class Outcomes(list):
    """Stage metrics that remember how each call ended."""

    moves = 0

    def moved(self):
        self.moves += 1

    def ran(self, stage, code, _seconds):
        self.append((stage, code))


async def test_a_generation_whose_picture_was_taken_counts_as_ok_and_is_not_canceled():
    stream, outcomes = Stream([Progress(1, 2, 2), Finished(None, STATS), "pixels"]), Outcomes()
    stages = ServeStages(Handle(), Handle(stream), Handle(), outcomes)

    async with contextlib.aclosing(stages.generate(request("r"))) as messages:
        taken = [await anext(messages), await anext(messages)]  # as the dispatcher does: it leaves with the picture

    assert taken[-1].pixels.message == "pixels"
    assert not taken[-1].pixels.read  # that is for the publisher to do
    assert outcomes == [("generate", "ok")]
    assert not stream.canceled


async def test_a_generation_left_early_is_canceled():
    stream, outcomes = Stream([Progress(1, 2, 2), Finished(None, STATS), "pixels"]), Outcomes()
    stages = ServeStages(Handle(), Handle(stream), Handle(), outcomes)

    async with contextlib.aclosing(stages.generate(request("r"))) as messages:
        await anext(messages)

    assert outcomes == [("generate", "canceled")]
    assert stream.canceled


def checkpoint(step):
    return Checkpoint(step, np.zeros((1, 4, 8, 8), np.float32), {}, np.zeros(1, np.uint8))


def finished_stream(*progress):
    return Stream([*progress, Finished(None, STATS), "pixels"])


async def generated(*streams):
    """The messages of a generation whose calls are answered by these streams in turn; the handle; the metrics."""
    generator, outcomes = Handle(*streams), Outcomes()
    stages = ServeStages(Handle(), generator, Handle(), outcomes)
    return [message async for message in stages.generate(request("r"))], generator, outcomes


async def test_a_generation_whose_generator_is_stopped_goes_on_in_another_from_its_checkpoint():
    at_2, at_3 = checkpoint(2), checkpoint(3)

    messages, generator, outcomes = await generated(
        Stream([Progress(1, 5, 2), Progress(2, 5, 2), Interrupted(at_2)]),
        Stream([Progress(3, 5, 4), Interrupted(at_3)]),
        finished_stream(Progress(4, 5, 4), Progress(5, 5, 4)),
    )

    assert [message.step for message in messages[:-1]] == [1, 2, 3, 4, 5]
    assert [call[1] for call in generator.calls] == [None, at_2, at_3]
    assert (outcomes, outcomes.moves) == ([("generate", "ok")], 2)


async def test_a_generator_that_took_no_step_costs_neither_the_checkpoint_nor_a_move():
    at_2 = checkpoint(2)

    _, generator, outcomes = await generated(
        Stream([Interrupted(None)]), Stream([Interrupted(at_2)]), Stream([Interrupted(None)]), finished_stream()
    )

    assert [call[1] for call in generator.calls] == [None, None, at_2, at_2]
    assert (outcomes, outcomes.moves) == ([("generate", "ok")], 1)


async def test_refusals_are_waited_out_longer_each_time():
    began_s = asyncio.get_running_loop().time()

    await generated(*(Stream([Interrupted(None)]) for _ in range(3)), finished_stream())

    assert asyncio.get_running_loop().time() - began_s >= 0.1 + 0.2 + 0.4


async def test_the_death_of_the_generator_it_moved_to_is_an_attempt():
    with pytest.raises(UnavailableError):
        await generated(Stream([Interrupted(checkpoint(2))]), Stream([Progress(3, 5, 2), ActorDiedError()]))


async def test_a_generation_left_after_it_moved_is_canceled_where_it_runs_now():
    first, second = Stream([Interrupted(checkpoint(1))]), finished_stream(Progress(2, 5, 2))
    stages = ServeStages(Handle(), Handle(first, second), Handle(), Outcomes())

    async with contextlib.aclosing(stages.generate(request("r"))) as messages:
        await anext(messages)

    assert (first.canceled, second.canceled) == (False, True)
