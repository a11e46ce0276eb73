"""Composes the Serve application. ``deployments/*.yaml`` name :func:`build` and set each environment's numbers."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from instantid_serve.serving.api.replica import Api
from instantid_serve.serving.replicas.dispatcher import Dispatcher
from instantid_serve.serving.replicas.face_analyzer import FaceAnalyzer
from instantid_serve.serving.replicas.generator import Generator
from instantid_serve.serving.replicas.housekeeper import Housekeeper
from instantid_serve.serving.replicas.publisher import Publisher
from instantid_serve.settings import Settings

# Replicas that share a machine must not fight for its cores, and nothing is fetched while serving. A config file that
# gives ray_actor_options replaces these, so the files repeat them in the application's runtime_env.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
}


def build(args: dict[str, Any]) -> Application:
    """The application: Api over Dispatcher over FaceAnalyzer, Generator and Publisher, and beside them Housekeeper.

    ``args`` are :class:`Settings`. Raises ConfigurationError here, before anything starts, when they are wrong.
    """
    return compose(args)


def compose(
    args: dict[str, Any], *, generator_class: type = Generator, publisher_class: type = Publisher
) -> Application:
    """What :func:`build` builds, with other classes in place of some: for tests and benchmarks."""
    Settings.load(args)
    analyzer = _deployment(FaceAnalyzer, num_cpus=0.4, max_ongoing_requests=4)
    # More calls than the engine holds: the dispatcher's own limit decides, and a health question still gets through.
    # One that is stopped hands its requests over at once, and Serve looks every wait loop whether that is done.
    shutdown = {"graceful_shutdown_timeout_s": 60, "graceful_shutdown_wait_loop_s": 0.5}
    generator = _deployment(generator_class, num_cpus=1.0, max_ongoing_requests=64, **shutdown)
    publisher = _deployment(publisher_class, num_cpus=0.2, max_ongoing_requests=8)
    dispatcher = _deployment(Dispatcher, num_cpus=0.2, max_ongoing_requests=100, graceful_shutdown_timeout_s=30)
    api = _deployment(serve.ingress()(Api), num_cpus=0.2, max_ongoing_requests=256)
    stages: list[DeploymentHandle] = [deployment.bind(args) for deployment in (analyzer, generator, publisher)]
    housekeeper = _deployment(Housekeeper, num_cpus=0.1, max_ongoing_requests=4)
    return api.bind(args, dispatcher.bind(args, *stages), housekeeper.bind(args))


def _deployment(cls: type, *, num_cpus: float, **options: Any) -> serve.Deployment:  # noqa: ANN401 - Serve's own options
    actor = {"num_cpus": num_cpus, "runtime_env": {"env_vars": ENVIRONMENT}}
    return serve.deployment(cls, name=cls.__name__, ray_actor_options=actor, **options)
