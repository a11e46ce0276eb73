import threading
import types

import pytest

from instantid_serve.errors import ConfigurationError
from instantid_serve.serving.stop_notice import _stopping, when_stopped


def worker(**replica):
    """What Ray keeps of the actor in its process."""
    actor = types.SimpleNamespace(_replica_impl=types.SimpleNamespace(**replica))
    return types.SimpleNamespace(actor_id="a", actors={"a": actor})


def test_outside_a_replica_there_is_nothing_to_watch():
    threads = threading.active_count()

    when_stopped(pytest.fail, threading.Event())

    assert threading.active_count() == threads


def test_a_replica_is_being_stopped_once_serve_says_so():
    process = worker(_shutting_down=False)
    stopping = _stopping(process)
    before = stopping()

    process.actors["a"]._replica_impl._shutting_down = True

    assert (before, stopping()) == (False, True)


@pytest.mark.parametrize(
    "process", [worker(), worker(_shutting_down=None), types.SimpleNamespace(actor_id="a", actors={})]
)
def test_a_ray_that_does_not_tell_is_refused_at_the_start(process):
    with pytest.raises(ConfigurationError, match="Ray"):
        _stopping(process)
