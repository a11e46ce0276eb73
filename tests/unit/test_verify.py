"""`verify` against a golden folder made here: it passes what is equal and fails what is not."""

import json

import numpy as np
import pytest
from doubles.engine import engine_by_hand, run_all
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from instantid_serve import verify
from instantid_serve.cli import app
from instantid_serve.engine.runner import Runner
from instantid_serve.landmarks import draw_landmarks

KPS = [[22, 25], [42, 24], [32, 34], [25, 45], [40, 44]]
CASES = [
    {"name": "guided", "guidance_scale": 5.0, "steps": 2, "scheduler": {"class": "EulerDiscreteScheduler"}},
    {
        "name": "plain",
        "guidance_scale": 1.0,
        "steps": 3,
        "scheduler": {"class": "DPMSolverMultistepScheduler", "kwargs": {"use_karras_sigmas": True}},
    },
]
COMMON = {
    "prompt": "a portrait",
    "negative_prompt": "blurry",
    "kps": KPS,
    "width": 64,
    "height": 64,
    "seed": 3,
    "ip_adapter_scale": 0.8,
    "controlnet_conditioning_scale": 0.8,
    "control_guidance_start": 0.0,
    "control_guidance_end": 1.0,
}


@pytest.fixture(scope="module")
def golden(tmp_path_factory, miniature_folder, miniature_model):
    folder = tmp_path_factory.mktemp("golden")
    cases = [COMMON | case for case in CASES]
    (folder / "checkpoint").symlink_to(miniature_folder)
    (folder / "cases.json").write_text(json.dumps(cases))
    tensors = {f"{case['name']}.embedding": np.ones(512, np.float32) for case in cases}
    latents = {}
    engine = engine_by_hand(Runner(miniature_model, observe=lambda *a: latents.__setitem__(a[:2], a[2].copy())))
    futures = {case["name"]: engine.submit(verify._request(case, tensors)) for case in cases}
    run_all(engine)
    for case in cases:
        name = case["name"]
        tensors[f"{name}.kps_image"] = draw_landmarks(np.array(KPS, np.float32), 64, 64)
        tensors[f"{name}.latents_after_step_1"] = latents[name, 1]
        tensors[f"{name}.latents"] = latents[name, case["steps"]]
        tensors[f"{name}.image_uint8"] = futures[name].result(0).pixels[None]
    save_file(tensors, folder / "expected.safetensors")
    return folder


def damaged(golden, tmp_path, name, change):
    """The same golden folder with one expected tensor changed."""
    for part in ("checkpoint", "cases.json"):
        (tmp_path / part).symlink_to(golden / part)
    tensors = load_file(golden / "expected.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, tmp_path / "expected.safetensors")
    return tmp_path


@pytest.mark.parametrize("together", [False, True])
def test_what_is_equal_passes(golden, together):
    results = list(verify.run(golden, together=together))

    assert [result["case"] for result in results] == ["guided", "plain"]
    assert all(result["ok"] for result in results)
    assert {result["max_batch_rows"] for result in results} == ({3} if together else {2, 1})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plain.latents", lambda latents: latents * 1.001),
        ("plain.latents_after_step_1", lambda latents: latents + 0.01),
        ("plain.kps_image", lambda picture: picture ^ 1),
    ],
)
def test_what_differs_fails_alone(golden, tmp_path, name, change):
    results = list(verify.run(damaged(golden, tmp_path, name, change), together=False))

    assert [result["ok"] for result in results] == [True, False]


def test_the_command_prints_a_json_line_a_case_and_fails_when_one_does(golden, tmp_path):
    bad = damaged(golden, tmp_path, "guided.latents", lambda latents: -latents)

    good, failed = [CliRunner().invoke(app, ["verify", "--golden", str(folder)]) for folder in (golden, bad)]

    assert (good.exit_code, failed.exit_code) == (0, 1)
    assert [json.loads(line)["ok"] for line in failed.stdout.splitlines()] == [False, True]
