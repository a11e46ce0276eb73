import asyncio

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from instantid_serve.errors import FaceNotFoundError, GenerationFailedError, OverloadedError, UnavailableError
from instantid_serve.serving.stages import translated


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
