"""Reads a Serve config file (``deployments/*.yaml``) and refuses it while it is still a file.

Serve drops keys it does not know, so a typing error in a deployment's options would silently mean the default; here
every level is held against Serve's own schema, and the application's ``args`` against :class:`Settings`.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pydantic
import yaml
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from instantid_serve.errors import ConfigurationError
from instantid_serve.settings import Settings

DEPLOYMENTS = ("Api", "Dispatcher", "FaceAnalyzer", "Generator", "Housekeeper", "Publisher")


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """A config file that Serve and the application will take."""

    schema: ServeDeploySchema
    settings: Settings

    @classmethod
    def load(cls, path: Path, *, port: int | None = None, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read and check ``path``; ``port`` and ``overrides`` (merged into the application's args) go above it.

        Raises ConfigurationError naming every wrong key.
        """
        document = _read(path)
        wrong = list(unknown_keys(document, ServeDeploySchema))
        if wrong:
            raise ConfigurationError(f"{path} has keys that Ray Serve does not know: {', '.join(wrong)}")
        application = _only_application(document, path)
        application["args"] = _merged(application.get("args") or {}, overrides or {})
        if port is not None:
            document["http_options"] = {**(document.get("http_options") or {}), "port": port}
        return cls(_validated(document, path), Settings.load(application["args"]))

    @property
    def application(self) -> ServeApplicationSchema:
        """The one application."""
        return self.schema.applications[0]

    @property
    def url(self) -> str:
        """Where this machine reaches the application."""
        host = self.schema.http_options.host
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{self.schema.http_options.port}"  # noqa: S104 - compared, not bound

    @property
    def num_cpus(self) -> float:
        """Logical CPUs that all replicas ask for together."""
        return sum(_cpus(deployment) for deployment in self.application.deployments)


def _cpus(deployment: DeploymentSchema) -> float:
    options = deployment.model_dump(exclude_unset=True)
    replicas = options.get("num_replicas") or (options.get("autoscaling_config") or {}).get("min_replicas") or 1
    cpus = (options.get("ray_actor_options") or {}).get("num_cpus", 1.0)
    return float(cpus) * (replicas if isinstance(replicas, int) else 1)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path} is not a Serve config: it must be a mapping")
    return document


def _only_application(document: Mapping[str, Any], path: Path) -> dict[str, Any]:
    applications = document.get("applications")
    if not isinstance(applications, list) or len(applications) != 1 or not isinstance(applications[0], dict):
        raise ConfigurationError(f"{path} must have exactly one application")
    application: dict[str, Any] = applications[0]
    names = {deployment.get("name") for deployment in application.get("deployments") or [] if deployment}
    if unknown := sorted(map(str, names - set(DEPLOYMENTS))):
        raise ConfigurationError(f"{path} names deployments that do not exist: {', '.join(unknown)}")
    return application


def _validated(document: dict[str, Any], path: Path) -> ServeDeploySchema:
    try:
        return ServeDeploySchema.model_validate(document)
    except pydantic.ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise ConfigurationError(f"Ray Serve does not take {path}: {faults}") from None


def _merged(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in above.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def unknown_keys(document: object, model: type[pydantic.BaseModel], path: str = "") -> Iterator[str]:
    """Name every key, at any depth, that is not a field of ``model`` or of the models inside it."""
    if not isinstance(document, Mapping):
        return
    for name, value in document.items():
        field = model.model_fields.get(str(name))
        here = f"{path}{name}"
        if field is None:
            yield here
            continue
        inner = RequestRouterConfig if name == "request_router_config" else _model_in(field.annotation)
        if inner is None:
            continue
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            label = f"{here}[{index}]." if isinstance(value, list) else f"{here}."
            yield from unknown_keys(item, inner, label)


def _model_in(annotation: Any) -> type[pydantic.BaseModel] | None:  # noqa: ANN401 - any annotation there is
    """The pydantic model in an annotation such as ``Optional[Union[Dict, Model]]`` or ``List[Model]``."""
    if inspect.isclass(annotation) and typing.get_origin(annotation) is None:
        return annotation if issubclass(annotation, pydantic.BaseModel) else None
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part))), None)
