"""What the operators' commands work on: the database that a config file, or the environment, names.

The file is read without Ray, which takes seconds to import and checks what these commands do not use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from instantid_serve.errors import ConfigurationError

if typing.TYPE_CHECKING:
    from instantid_serve.service.api_keys import ApiKeys
    from instantid_serve.service.database import Database
    from instantid_serve.service.tenants import Tenants
    from instantid_serve.settings import Settings

Config = Annotated[
    Path | None,
    typer.Option("--config", help="A Serve config, for example deployments/local.yaml; without it, the environment."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclasses.dataclass(frozen=True)
class Office:
    """Tenants and keys in a database whose tables are of this version."""

    settings: Settings
    tenants: Tenants
    keys: ApiKeys


def load_settings(config: Path | None) -> Settings:
    """The application's settings. Raises ConfigurationError."""
    from instantid_serve.settings import Settings

    return Settings.load(None if config is None else _application_args(config))


@contextlib.contextmanager
def opened_database(config: Path | None) -> Iterator[Database]:
    """The database as it is, closed at the end. Raises ConfigurationError, DatabaseError."""
    from instantid_serve.service.database import open_database

    settings = load_settings(config).database
    database = open_database(settings.url.get_secret_value(), settings.busy_timeout_s)
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def opened_office(config: Path | None) -> Iterator[Office]:
    """Tenants and keys, on tables of this version. Raises ConfigurationError, DatabaseError."""
    from instantid_serve.service.api_keys import ApiKeys
    from instantid_serve.service.database import ready_database
    from instantid_serve.service.tenants import Tenants

    settings = load_settings(config)
    database = ready_database(settings.database)
    try:
        yield Office(settings, Tenants(database, settings.tenancy), ApiKeys(database))
    finally:
        database.close()


def _application_args(config: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(config.read_text(encoding="utf-8"))
        args = document["applications"][0].get("args") or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{config} is not YAML: {error}") from error
    except (UnicodeDecodeError, KeyError, IndexError, TypeError, AttributeError):
        raise ConfigurationError(f"{config} is not a Serve config with an application") from None
    return dict(args)
