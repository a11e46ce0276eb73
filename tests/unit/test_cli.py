"""The installed command, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from doubles.scripted_service import DONE, Answer, Service, job_json, scripted_service
from typer.testing import CliRunner

from instantid_serve.cli import app

COMMAND = Path(sys.executable).with_name("instantid-serve")
PNG = b"\x89PNG\r\n\x1a\n and the rest"


@pytest.fixture
def service() -> Iterator[Service]:
    with scripted_service() as running:
        yield running


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "me.png"
    path.write_bytes(PNG)
    return path


def command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", **variables}
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment, timeout=60
    )


def test_version_is_the_installed_one():
    assert command("version").stdout.strip() == version("instantid-serve")


def test_help_names_every_command():
    shown = command("--help").stdout

    for name in ("demo", "generate", "up", "verify", "version", "weights"):
        assert name in shown


def test_generate_prints_the_id_before_the_files(service: Service, photo: Path, tmp_path: Path):
    service.answers = [Answer.of(job_json(), 202), Answer.of(DONE), Answer(200, PNG, "image/png")]
    out = tmp_path / "new" / "folder"

    result = command("generate", photo, "a portrait", "-n", 1, "-o", out, "--seed", 7, "--url", service.url)

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["gen_1", str(out / "gen_1-0.png")]
    assert (out / "gen_1-0.png").read_bytes() == PNG
    assert b'name="seed"\r\n\r\n7\r\n' in service.asked[0].body


def test_a_servers_id_never_leads_out_of_the_folder(service: Service, photo: Path, tmp_path: Path):
    done = {**DONE, "id": "../../evil"}
    service.answers = [Answer.of(done, 202), Answer.of(done), Answer(200, PNG, "image/png")]
    out = tmp_path / "one" / "two"

    command("generate", photo, "a portrait", "-o", out, "--url", service.url)

    assert [path.name for path in tmp_path.rglob("*evil*")] == ["evil-0.png"]
    assert (out / "evil-0.png").exists()


def test_generate_sends_only_what_was_named(service: Service, photo: Path, tmp_path: Path):
    service.answers = [Answer.of(job_json(), 202), Answer.of(DONE), Answer(200, PNG, "image/png")]

    command("generate", photo, "a portrait", "-o", tmp_path, INSTANTID_URL=service.url, INSTANTID_API_KEY="secret")

    assert b'name="steps"' not in service.asked[0].body
    assert service.asked[0].headers["Authorization"] == "Bearer secret"


def test_the_callers_error_is_one_line_and_exit_code_2(service: Service, photo: Path):
    service.answers = [Answer.of({"code": "face_not_found", "detail": "there is no face"}, 422)]

    result = command("generate", photo, "a portrait", "--url", service.url)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: face_not_found: there is no face\n"


def test_a_failed_job_leaves_its_id_and_exit_code_1(service: Service, photo: Path):
    error = {"code": "generation_failed", "detail": "no luck", "status": 500, "retryable": False, "facts": {}}
    service.answers = [Answer.of(job_json(), 202), Answer.of(job_json(status="failed", done=True, error=error))]

    result = command("generate", photo, "a portrait", "--url", service.url)

    assert (result.returncode, result.stdout) == (1, "gen_1\n")
    assert result.stderr == "error: generation_failed: no luck\n"


def test_debug_shows_the_traceback(service: Service, photo: Path):
    service.answers = [Answer.of({"code": "unauthorized", "detail": "no key"}, 401)]

    result = command("--debug", "generate", photo, "a portrait", "--url", service.url)

    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "UnauthorizedError" in result.stderr


def test_the_miniature_is_made_checked_and_refused_when_a_byte_is_flipped(tmp_path: Path):
    folder = tmp_path / "miniature"

    made = command("weights", "make", "--preset", "miniature", "--folder", folder)
    whole = command("weights", "check", folder)
    weight_file = next(folder.rglob("ip-adapter.safetensors"))
    content = bytearray(weight_file.read_bytes())
    content[-1] ^= 1
    weight_file.write_bytes(content)
    flipped = command("weights", "check", folder)

    assert (made.returncode, made.stdout) == (0, f"{folder}\n"), made.stderr
    assert whole.stdout.startswith("miniature: ")
    assert flipped.returncode == 1
    assert flipped.stderr.startswith("error: weights_invalid: the model file ip-adapter.safetensors")


def test_nothing_is_fetched_before_the_licences_are_accepted(tmp_path: Path):
    result = CliRunner().invoke(
        app, ["weights", "fetch", "--preset", "instantid-sdxl", "--folder", f"{tmp_path}/model"]
    )

    assert result.exit_code == 1
    for name in ("InstantX/InstantID", "antelopev2", "stable-diffusion-xl-base-1.0", "--accept-licences"):
        assert name in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_configuration_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path):
    result = command("up", tmp_path / "nothing.yaml")

    assert result.returncode == 2
    assert "error: configuration: cannot read" in result.stderr


def test_a_command_of_the_server_names_the_extra_that_the_light_install_lacks():
    script = (
        "import sys; sys.modules['numpy'] = None; sys.argv[1:] = ['demo']; import instantid_serve.cli as c; c.main()"
    )

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)

    assert result.returncode == 2
    assert result.stderr.startswith("error: configuration: this command needs numpy")
    assert "instantid-serve[serve,cpu]" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--golden", "{}/nothing"),
        ("weights", "make", "--preset", "miniature", "--folder", "{}/a-file"),
        ("weights", "make", "--preset", "miniature", "--folder", "{}/a-file/model"),
        ("weights", "fetch", "--preset", "instantid-sdxl", "--accept-licences", "--folder", "{}/a-file"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line_that_names_it(tmp_path: Path, arguments: tuple[str, ...]):
    (tmp_path / "a-file").write_bytes(b"")

    # In this process, which loads torch once.
    result = CliRunner().invoke(app, [argument.format(tmp_path) for argument in arguments])

    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: configuration: {tmp_path}")
    assert len(result.stderr.splitlines()) == 1


def test_one_of_several_faces_can_be_named(service: Service, photo: Path, tmp_path: Path):
    service.answers = [Answer.of(job_json(), 202), Answer.of(DONE), Answer(200, PNG, "image/png")]

    command("generate", photo, "a portrait", "-o", tmp_path, "--face", "largest", "--url", service.url)

    assert b'name="face"\r\n\r\nlargest\r\n' in service.asked[0].body


def test_a_wrong_option_is_exit_code_2():
    assert command("demo", "--pictures", 0).returncode == 2


def test_a_service_that_is_not_there_is_one_line(photo: Path):
    result = command("generate", photo, "a portrait", "--url", "http://127.0.0.1:1")

    assert result.returncode == 1
    assert result.stderr.startswith("error: unavailable: cannot connect to")
    assert len(result.stderr.splitlines()) == 1


def test_help_is_shown_without_a_command():
    assert "Usage" in CliRunner().invoke(app, []).output


def test_a_prompt_in_any_language_arrives_as_it_was_typed(service: Service, photo: Path, tmp_path: Path):
    service.answers = [Answer.of(job_json(), 202), Answer.of(DONE), Answer(200, PNG, "image/png")]

    result = command("generate", photo, "ein Porträt", "-o", tmp_path, "--url", service.url)

    assert result.returncode == 0
    assert "ein Porträt".encode() in service.asked[0].body
