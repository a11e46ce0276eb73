"""``instantid-serve tenants``: who may use the service, and how much of it. Works on the database itself."""

from __future__ import annotations

import json
import typing
from typing import Annotated, Any

import typer

from instantid_serve.cli.configured import Config, Json, Office, opened_office
from instantid_serve.cli.keys import keys, print_key
from instantid_serve.errors import ConflictError, InvalidRequestError

if typing.TYPE_CHECKING:
    from pydantic import BaseModel

    from instantid_serve.service.tenants import Tenant

tenants = typer.Typer(no_args_is_help=True, help="Tenants, their limits and their API keys, in the database.")
tenants.add_typer(keys, name="keys")

Name = Annotated[str, typer.Argument(help="The tenant's name: a-z, 0-9 and -.")]
Tier = Annotated[str | None, typer.Option(help="What metrics group it by.")]
Weight = Annotated[float | None, typer.Option(help="Its share under load; others' is 1.")]
Rate = Annotated[int | None, typer.Option(help="All routes together.")]
Running = Annotated[int | None, typer.Option(help="Pictures made at once.")]
Queued = Annotated[int | None, typer.Option(help="Generations that may wait.")]
Monthly = Annotated[int | None, typer.Option(help="Pictures per calendar month, UTC.")]
Retention = Annotated[float | None, typer.Option(help="Seconds that photos and pictures are kept.")]
Defaults = Annotated[str | None, typer.Option(help='JSON: parameters that requests leave out, e.g. {"steps": 20}.')]
Unset = Annotated[list[str] | None, typer.Option(help="A limit that shall be the server's own again; repeatable.")]


@tenants.command()
def create(
    name: Name,
    *,
    tier: Tier = None,
    weight: Weight = None,
    requests_per_minute: Rate = None,
    max_running_pictures: Running = None,
    max_queued_jobs: Queued = None,
    pictures_per_month: Monthly = None,
    retention_s: Retention = None,
    defaults: Defaults = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a tenant and its first key. The key is printed, once, and is nowhere else."""
    from instantid_serve.serving.api.tenancy_schemas import TenantFields, issued_out
    from instantid_serve.settings import TENANT_SCOPES

    values = _given(
        tier=tier,
        weight=weight,
        requests_per_minute=requests_per_minute,
        max_running_pictures=max_running_pictures,
        max_queued_jobs=max_queued_jobs,
        pictures_per_month=pictures_per_month,
        retention_s=retention_s,
        defaults=defaults,
    )
    with opened_office(config) as office:
        fields = _checked(TenantFields, {"id": name, **values}, office)
        try:
            tenant = office.tenants.create(name, fields.model_dump(exclude={"id"}))
        except ConflictError:
            raise ConflictError("there is a tenant of that name: `tenants keys create` makes it a key") from None
        issued = office.keys.issue(name, TENANT_SCOPES, label="first")
    if as_json:
        typer.echo(json.dumps(_told(tenant) | {"key": issued_out(issued).model_dump(mode="json")}))
    else:
        print_key(issued, as_json=False)


@tenants.command("list")
def list_(config: Config = None, *, as_json: Json = False) -> None:
    """All tenants, by name."""
    with opened_office(config) as office:
        found = office.tenants.list(limit=1_000_000)
    if as_json:
        typer.echo(json.dumps([_told(tenant) for tenant in found]))
        return
    for tenant in found:
        typer.echo(f"{tenant.id}\t{tenant.tier}\t{'suspended' if tenant.suspended else 'active'}")


@tenants.command()
def show(name: Name, config: Config = None, *, as_json: Json = False) -> None:
    """A tenant, with the limits that hold for it: its own or the server's."""
    with opened_office(config) as office:
        _print(office.tenants.get(name), as_json=as_json)


@tenants.command("set")
def set_(
    name: Name,
    *,
    tier: Tier = None,
    weight: Weight = None,
    requests_per_minute: Rate = None,
    max_running_pictures: Running = None,
    max_queued_jobs: Queued = None,
    pictures_per_month: Monthly = None,
    retention_s: Retention = None,
    defaults: Defaults = None,
    unset: Unset = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Change what is named, and nothing else. Running servers follow within five seconds."""
    values = _given(
        tier=tier,
        weight=weight,
        requests_per_minute=requests_per_minute,
        max_running_pictures=max_running_pictures,
        max_queued_jobs=max_queued_jobs,
        pictures_per_month=pictures_per_month,
        retention_s=retention_s,
        defaults=defaults,
    )
    values |= {limit.replace("-", "_"): None for limit in unset or ()}
    _change(name, values, config, as_json=as_json)


@tenants.command()
def suspend(name: Name, config: Config = None, *, as_json: Json = False) -> None:
    """Refuse all of a tenant's requests. Nothing of it is deleted, and jobs it has go on."""
    _change(name, {"suspended": True}, config, as_json=as_json)


@tenants.command()
def resume(name: Name, config: Config = None, *, as_json: Json = False) -> None:
    """Let a suspended tenant in again."""
    _change(name, {"suspended": False}, config, as_json=as_json)


def _change(name: str, values: dict[str, Any], config: Config, *, as_json: bool) -> None:
    from instantid_serve.serving.api.tenancy_schemas import TenantChanges

    with opened_office(config) as office:
        changes = _checked(TenantChanges, values, office).model_dump(exclude_unset=True)
        _print(office.tenants.change(name, changes), as_json=as_json)


def _given(*, defaults: str | None, **limits: str | float | None) -> dict[str, Any]:
    """What of a tenant the command line names."""
    values: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    if defaults is None:
        return values
    try:
        return values | {"defaults": json.loads(defaults)}
    except ValueError:
        raise InvalidRequestError("--defaults is not JSON") from None


def _checked(model: type[BaseModel], values: dict[str, Any], office: Office) -> Any:  # noqa: ANN401 - a `model`
    """The values as the API would take them. Raises InvalidRequestError."""
    from pydantic import ValidationError

    from instantid_serve.serving.api.defaults import check_defaults
    from instantid_serve.serving.api.schemas import fields_model

    try:
        fields: Any = model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        sentence = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise InvalidRequestError(sentence) from None
    check_defaults(fields.defaults, fields_model(office.settings.limits))
    return fields


def _print(tenant: Tenant, *, as_json: bool) -> None:
    told = _told(tenant)
    if as_json:
        typer.echo(json.dumps(told))
        return
    for name, value in told.items():
        typer.echo(f"{name}: {'no limit' if value is None else value}")


def _told(tenant: Tenant) -> dict[str, Any]:
    from instantid_serve.serving.api.tenancy_schemas import TenantOut, tenant_values

    return TenantOut(**tenant_values(tenant)).model_dump(mode="json", exclude={"object"})
