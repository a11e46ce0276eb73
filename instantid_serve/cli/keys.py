"""``instantid-serve tenants keys``: the API keys of a tenant. A key is printed by the command that makes it."""

from __future__ import annotations

import json
import typing
from typing import Annotated

import typer

from instantid_serve.cli.configured import Config, Json, opened_office
from instantid_serve.errors import InvalidRequestError

if typing.TYPE_CHECKING:
    from instantid_serve.service.api_keys import IssuedKey

keys = typer.Typer(no_args_is_help=True, help="The API keys of a tenant.")

Tenant = Annotated[str, typer.Argument(help="The tenant's name.")]
KeyId = Annotated[str, typer.Argument(help="The key's public id: its third part, which `list` shows.")]
Scopes = Annotated[list[str] | None, typer.Option("--scope", help="What it may do; repeatable. Without: everything.")]
Expiry = Annotated[float | None, typer.Option(min=1, help="Seconds until it ends. Without: it does not.")]
Overlap = Annotated[float, typer.Option(min=0, help="Seconds for which the old key goes on.")]


@keys.command()
def create(
    tenant: Tenant,
    *,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    scope: Scopes = None,
    expires_in_s: Expiry = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is printed, once, and is nowhere else."""
    from instantid_serve.settings import TENANT_SCOPES

    if unknown := sorted(set(scope or ()) - set(TENANT_SCOPES)):
        raise InvalidRequestError(f"no key of a tenant has the scope {unknown[0]}: {', '.join(TENANT_SCOPES)}")
    scopes = [known for known in TENANT_SCOPES if scope is None or known in scope]
    with opened_office(config) as office:
        office.tenants.get(tenant)
        issued = office.keys.issue(tenant, scopes, label=label, expires_in_s=expires_in_s)
    print_key(issued, as_json=as_json)


@keys.command("list")
def list_(tenant: Tenant, config: Config = None, *, as_json: Json = False) -> None:
    """A tenant's keys, the newest first, the ended ones among them."""
    from instantid_serve.serving.api.tenancy_schemas import key_out

    with opened_office(config) as office:
        office.tenants.get(tenant)
        found = [key_out(record).model_dump(mode="json", exclude={"object"}) for record in office.keys.list(tenant)]
    if as_json:
        typer.echo(json.dumps(found))
        return
    for key in found:
        ends = f"revoked {key['revoked_at']}" if key["revoked_at"] else f"expires {key['expires_at'] or 'never'}"
        typer.echo(f"{key['id']}\t{key['label']}\t{ends}\t{','.join(key['scopes'])}")


@keys.command()
def rotate(
    tenant: Tenant, key_id: KeyId, *, overlap_s: Overlap = 86_400.0, config: Config = None, as_json: Json = False
) -> None:
    """Make a key in the place of another, which goes on for a while. The new one is printed."""
    with opened_office(config) as office:
        issued = office.keys.rotate(tenant, key_id, overlap_s=overlap_s)
    print_key(issued, as_json=as_json)


@keys.command()
def revoke(tenant: Tenant, key_id: KeyId, config: Config = None) -> None:
    """End a key, on running servers within five seconds."""
    with opened_office(config) as office:
        office.keys.revoke(tenant, key_id)


def print_key(issued: IssuedKey, *, as_json: bool) -> None:
    """The key on stdout, and nothing else there, so that it can be piped into where it is kept."""
    from instantid_serve.serving.api.tenancy_schemas import issued_out

    if as_json:
        typer.echo(issued_out(issued).model_dump_json(exclude={"object"}))
        return
    typer.echo(issued.key)
    typer.echo(f"the key {issued.record.id} of {issued.record.tenant} is shown only now", err=True)
