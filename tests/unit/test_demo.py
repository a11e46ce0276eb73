from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from instantid_serve import demo
from instantid_serve.errors import UnavailableError
from instantid_serve.settings import Settings
from instantid_serve.told_job import Job, JobImage


@given(pictures=st.integers(1, 32), steps=st.integers(1, 100))
def test_a_plan_has_one_order_a_picture_and_never_more_steps_than_asked_for(pictures: int, steps: int):
    orders = demo.plan(pictures, steps)

    assert len(orders) == pictures
    assert all(1 <= order.parameters["steps"] <= steps for order in orders)


def test_a_plan_never_makes_one_picture_twice():
    orders = demo.plan(32, 20)

    assert len({order.parameters["seed"] for order in orders}) == 32


def test_the_usual_plan_mixes_samplers_steps_and_guidance():
    orders = demo.plan(8, 20)

    assert len({order.parameters["sampler"] for order in orders}) == 8
    assert len({order.parameters["steps"] for order in orders}) > 3
    assert any(order.parameters.get("guidance_scale") == 1.0 for order in orders)


def test_the_demos_server_has_a_key_a_port_and_data_of_its_own(tmp_path: Path):
    config, url = demo._write_config(tmp_path, "the-key")

    document = yaml.safe_load(config.read_text())
    settings = Settings.load(document["applications"][0]["args"])
    assert url == f"http://127.0.0.1:{document['http_options']['port']}"
    assert settings.database.url.get_secret_value() == f"sqlite:///{tmp_path}/jobs.sqlite3"
    assert settings.results.folder == tmp_path / "results"
    assert [key.tenant for key in settings.api.keys] == ["demo"]
    assert "the-key" not in config.read_text()


def test_a_server_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path):
    log = tmp_path / "server.log"
    log.write_text("no such model\n")
    with demo.Client("http://127.0.0.1:1", "k") as client:
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        process.wait()

        with pytest.raises(UnavailableError, match="no such model"):
            demo._wait_until_ready(client, process, log, Console(quiet=True))


def test_the_astronauts_landmarks_are_drawn_for_the_sheet():
    tile = demo._landmark_tile(demo.astronaut(), (256, 256))

    assert tile.picture.size == (256, 256)
    assert tile.picture.getextrema()[0][1] == 255


def test_the_report_fits_a_terminal_and_names_what_failed(capsys: pytest.CaptureFixture[str]):
    stats = dict.fromkeys(("waiting_s", "prepare_s", "denoise_s", "decode_s"), 1.5)
    image = JobImage(0, "", 7, {**stats, "mean_batch_rows": 5.5, "max_batch_rows": 8.0})
    orders = demo.plan(3, 20)
    jobs = {"gen_1": orders[0], "gen_2": orders[1]}
    made = Job.from_json({"id": "gen_1", "status": "succeeded", "done": True, "timings": {"generate_s": 6.0}})
    made = dataclasses.replace(made, images=(image, image))
    problem = {"code": "face_not_found", "detail": "no face"}
    failed = Job.from_json({"id": "gen_2", "status": "failed", "done": True, "error": problem})

    demo._report(Console(width=80), jobs, [made, failed], 10.0)

    shown = capsys.readouterr().out
    assert "a bronze statue in a museum: face_not_found: no face" in shown
    for text in ("guidance", "max", "a watercolour", "5.5", "denoise", "2 pictures in 10.0 s, 0.20 per second"):
        assert text in shown
