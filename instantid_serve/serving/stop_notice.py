"""How a replica learns that Serve has begun to stop it.

Whatever stops a replica (fewer replicas wanted, a rolling update, a node that is drained) passes through the replica
actor's ``perform_graceful_shutdown``, which sets ``_shutting_down`` and then waits for the calls in flight. User code
hears of it only afterwards, in ``__del__``: Ray Serve has no public hook that comes before. So that attribute is looked
at, and a version of Ray that no longer has it is refused when the replica starts, not noticed when a node goes away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from instantid_serve.errors import ConfigurationError

_LOOK_EVERY_S = 0.1  # beside notices of 30 s and more; what it costs a replica cannot be measured


def when_stopped(then: Callable[[], None], closed: threading.Event) -> None:
    """Call ``then`` once, on a thread of its own, when Serve begins to stop this replica; not after ``closed``.

    Outside a replica nothing is ever called. Raises ConfigurationError when this Ray does not tell.
    """
    try:
        serve.get_replica_context()
    except RayServeException:
        return
    stopping = _stopping(ray._private.worker.global_worker)  # noqa: SLF001 - see above

    def look() -> None:
        while not closed.wait(_LOOK_EVERY_S):
            if stopping():
                then()
                return

    threading.Thread(target=look, name="stop-notice", daemon=True).start()


def _stopping(worker: Any) -> Callable[[], bool]:  # noqa: ANN401 - Ray's own, private
    """Whether the replica that is the actor of this worker process is being stopped."""
    try:
        replica = worker.actors[worker.actor_id]._replica_impl  # noqa: SLF001 - see above
        began = replica._shutting_down  # noqa: SLF001 - see above
    except (AttributeError, KeyError) as error:
        raise ConfigurationError(f"Ray {ray.__version__} does not tell a replica that it is being stopped") from error
    if not isinstance(began, bool):
        raise ConfigurationError(f"Ray {ray.__version__} tells otherwise that a replica is being stopped")
    return lambda: bool(replica._shutting_down)  # noqa: SLF001 - see above
