"""The command line. Every command is thin: it names what a room does and prints what came of it.

Rooms are imported inside the commands that need them, the one exception to the house rule on imports: `generate` must
not wait for torch, nor `--help` for Ray. A test holds the import of this module to a time and a list of modules.
"""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from instantid_serve.cli.database import database
from instantid_serve.cli.tenants import tenants
from instantid_serve.errors import CallerError, ConfigurationError, InstantIDError

if typing.TYPE_CHECKING:
    from rich.progress import Progress

    from instantid_serve.client import Client
    from instantid_serve.told_job import Job

_EXIT_FAILED = 1
_EXIT_MISUSED = 2  # as for a wrong option: the caller can mend it


class _Reporting(TyperGroup):
    """Prints errors of our tree, missing extras and files that cannot be used as one line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as the base class has it
        try:
            return super().invoke(ctx)
        except (InstantIDError, ModuleNotFoundError, OSError) as error:
            ours = _as_ours(error)
            if ours is None or ctx.params.get("debug"):
                raise
            typer.echo(f"error: {ours.code}: {ours.detail}", err=True)
            misused = isinstance(ours, CallerError | ConfigurationError)
            raise typer.Exit(_EXIT_MISUSED if misused else _EXIT_FAILED) from error


def _as_ours(error: Exception) -> InstantIDError | None:
    """The error to print; None for one that is a fault of the program."""
    if isinstance(error, InstantIDError):
        return error
    if isinstance(error, OSError):
        # With a name it is of a file or folder that the caller gave.
        return ConfigurationError(f"{error.filename}: {error.strerror}") if error.filename is not None else None
    return _missing_extra(error) if isinstance(error, ModuleNotFoundError) else None


def _missing_extra(error: ModuleNotFoundError) -> ConfigurationError:
    return ConfigurationError(
        f"this command needs {error.name}, which is missing: pip install 'instantid-serve[serve,cpu]', or [serve,gpu]"
    )


app = typer.Typer(cls=_Reporting, no_args_is_help=True, pretty_exceptions_enable=False)
weights = typer.Typer(no_args_is_help=True, help="Put model folders in place and check them.")
app.add_typer(weights, name="weights")
app.add_typer(tenants, name="tenants")
app.add_typer(database, name="database")


def main() -> None:
    """Run the command line."""
    app(prog_name="instantid-serve")


@app.callback()
def options(*, debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """InstantID as a service: pictures of a person from a photo and a prompt."""
    # `debug` is read from the context by _Reporting, which runs around every command.


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed_version

    typer.echo(installed_version("instantid-serve"))


@app.command()
def up(
    config: Annotated[Path, typer.Argument(help="A Serve config, for example deployments/local.yaml.")],
    *,
    port: Annotated[int | None, typer.Option(help="Instead of the config's port; 0 takes a free one.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what the replicas log.")] = False,
) -> None:
    """Start Ray on this machine and serve a config until interrupted."""
    from instantid_serve.serving.up import up as serve_up

    typer.echo("starting; the address is printed once a first picture is made", err=True)
    serve_up(config, port=port, verbose=verbose, announce=typer.echo)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo-output"),
    pictures: Annotated[int, typer.Option(min=1, max=32, help="How many pictures.")] = 8,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Denoising steps of the longest job.")] = 20,
) -> None:
    """Start a server of its own, make pictures of a real photo all at once, show them, stop the server."""
    from instantid_serve.demo import run

    if not run(out, pictures, steps):
        raise typer.Exit(_EXIT_FAILED)


@app.command()
def verify(
    golden: Annotated[Path, typer.Option(help="A folder of golden cases.")],
    *,
    together: Annotated[bool, typer.Option("--together", help="All cases in one engine, joining staggered.")] = False,
) -> None:
    """Compare this engine with recorded results of upstream InstantID, one JSON line per case."""
    from instantid_serve.verify import run

    failed = False
    for case in run(golden, together=together):
        typer.echo(json.dumps(case))
        failed = failed or not case["ok"]
    if failed:
        raise typer.Exit(_EXIT_FAILED)


@weights.command("fetch")
def fetch_weights(
    preset: Annotated[Literal["instantid-sdxl"], typer.Option(help="Which model.")],
    folder: Annotated[Path | None, typer.Option(help="Where to; by default among the user's models.")] = None,
    *,
    accept_licences: Annotated[
        bool, typer.Option("--accept-licences", help="Without it they are only listed.")
    ] = False,
    base: Annotated[str | None, typer.Option(help="Another SDXL: a hub repository or a local folder.")] = None,
    base_revision: Annotated[str | None, typer.Option(help="The repository's commit, 40 hex digits.")] = None,
    base_file: Annotated[Path | None, typer.Option(help="Another SDXL: a single safetensors file.")] = None,
) -> None:
    """Download, verify and assemble the real model (about 11.5 GB). A call that was cut off is resumed."""
    from instantid_serve.models.fetch import fetch
    from instantid_serve.settings import data_home

    place = folder or data_home() / "models" / preset
    fetch(
        preset,
        place,
        accept_licences=accept_licences,
        base=base,
        base_revision=base_revision,
        base_file=base_file,
    )
    typer.echo(place)


@weights.command("make")
def make_weights(
    preset: Annotated[Literal["miniature"], typer.Option(help="The one model that is made and not fetched.")],
    folder: Annotated[Path | None, typer.Option(help="Where to; by default among the user's models.")] = None,
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Make the miniature model: seconds, no download, the same bytes on every run."""
    from instantid_serve.models import miniature
    from instantid_serve.settings import data_home

    place = folder or data_home() / "models" / preset
    miniature.make(place, overwrite=overwrite)
    typer.echo(place)


@weights.command("check")
def check_weights(folder: Annotated[Path, typer.Argument(help="A model folder.")]) -> None:
    """Compare every file of a model folder with its manifest."""
    from instantid_serve.models.weights import check_manifest

    with _progress() as progress:
        bar = progress.add_task("checking", total=None)
        manifest = check_manifest(
            folder, progress=lambda _, done, total: progress.update(bar, completed=done, total=total)
        )
    size_bytes = sum(file.size_bytes for file in manifest.files)
    typer.echo(f"{manifest.preset}: {len(manifest.files)} files, {size_bytes / 1e6:.1f} MB, as the manifest says")


@weights.command("adopt")
def adopt_weights(
    folder: Annotated[Path, typer.Argument(help="A model folder that someone put together by hand.")],
    preset: Annotated[Literal["instantid-sdxl"], typer.Option(help="What it is.")] = "instantid-sdxl",
) -> None:
    """Vouch for files that are in place already: write the manifest without which nothing is served."""
    from instantid_serve.models.adopt import ADOPTED, adopt

    manifest = adopt(folder, preset)
    unknown = sum(file.source == ADOPTED.source for file in manifest.files)
    typer.echo(f"{len(manifest.files) - unknown} files are the published ones, {unknown} are taken on your word")


@app.command()
def generate(
    photo: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JPEG, PNG or WebP with a face.")],
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    *,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many pictures.")] = 1,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the pictures.")] = Path(),
    negative_prompt: Annotated[str | None, typer.Option(help="What it must not show.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture. Picture i gets seed + i.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    sampler: Annotated[str | None, typer.Option(help="For example euler, dpmpp_2m_karras, lcm.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None,
    identity_strength: Annotated[float | None, typer.Option(help="How much of the face's identity.")] = None,
    identitynet_strength: Annotated[float | None, typer.Option(help="How much of the face's position.")] = None,
    face: Annotated[str | None, typer.Option(help="Of several: largest, or a number counted from 0.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    url: Annotated[str, typer.Option(envvar="INSTANTID_URL", help="The server's address.")] = "http://127.0.0.1:8000",
    api_key: Annotated[str, typer.Option(envvar="INSTANTID_API_KEY", help="Better given by the variable.")] = "",
    timeout_s: Annotated[float, typer.Option(help="How long to wait for the pictures.")] = 600.0,
) -> None:
    """Make pictures with a running server. Prints the job's id first, then the files."""
    from instantid_serve.client import Client

    named = {
        "negative_prompt": negative_prompt,
        "seed": seed,
        "steps": steps,
        "sampler": sampler,
        "guidance_scale": guidance_scale,
        "identity_strength": identity_strength,
        "identitynet_strength": identitynet_strength,
        "face": face,
        "width": width,
        "height": height,
    }
    parameters: Any = {name: value for name, value in named.items() if value is not None}
    with Client(url, api_key) as client:
        job = client.submit(photo, prompt, count=count, **parameters)
        typer.echo(job.id)
        job = _wait(client, job, timeout_s)
        if job.failure is not None:
            raise job.failure
        _save(client, job, out)


def _wait(client: Client, job: Job, timeout_s: float) -> Job:
    with _progress() as progress:
        bar = progress.add_task(job.status, total=None)

        def show(state: Job) -> None:
            progress.update(bar, description=state.status, completed=state.step, total=state.steps or None)

        return client.wait(job, timeout_s, show)


def _progress() -> Progress:
    """For bars on stderr, so that stdout holds results and nothing else; silent where nobody looks at stderr."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def _save(client: Client, job: Job, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for image in job.images:
        content = client.fetch(job, image.index)
        # Of the id only its last part: the server may be anybody's, and must not choose the folder.
        path = out / f"{Path(job.id).name}-{image.index}{_suffix(content)}"
        path.write_bytes(content)
        typer.echo(path)


def _suffix(content: bytes) -> str:
    if content.startswith(b"\x89PNG"):
        return ".png"
    return ".jpg" if content.startswith(b"\xff\xd8") else ".webp"
