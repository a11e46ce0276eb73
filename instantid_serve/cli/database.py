"""``instantid-serve database``: for the job that brings the tables up to date before a roll-out."""

from __future__ import annotations

import typer

from instantid_serve.cli.configured import Config, opened_database

database = typer.Typer(no_args_is_help=True, help="Bring the tables to this version.")


@database.command()
def upgrade(config: Config = None) -> None:
    """Make or change the tables. Safe to repeat, and while servers run."""
    from instantid_serve.service.database import upgrade as bring_up

    with opened_database(config) as opened:
        bring_up(opened)
    typer.echo("the database is of this version")


@database.command()
def check(config: Config = None) -> None:
    """Fail unless the tables can be used as they are."""
    from instantid_serve.service.database import require_current

    with opened_database(config) as opened:
        require_current(opened)
    typer.echo("the database is of this version")
