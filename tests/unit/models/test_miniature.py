import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPTokenizer

from instantid_serve.errors import WeightsError
from instantid_serve.landmarks import draw_landmarks
from instantid_serve.models import miniature
from instantid_serve.models.miniature_tokenizer import make_tokenizer
from instantid_serve.models.weights import MANIFEST_NAME, Origin, check_manifest, write_manifest

SIDE = 64
EULER, DDIM = "EulerDiscreteScheduler", "DDIMScheduler"
LANDMARKS = np.array([[24, 26], [40, 26], [32, 36], [26, 44], [38, 44]], np.float32)
PROMPTS = [
    "analog film photo of a woman, faded film, desaturated, 35mm, vignette, vintage, Kodachrome, highly detailed",
    "(lowres, worst quality:1.2), (text:1.2), watermark, painting, illustration, glitch, deformed, mutated, cross-eyed",
    "portrait of an astronaut, cinematic lighting, 85mm, sharp focus, intricate, golden hour, bokeh background",
]


def _digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_file_has_the_same_bytes_on_every_run(miniature_folder, tmp_path):
    # Another process, with other threads and another order of hashes.
    script = (
        "import pathlib, sys; from instantid_serve.models import miniature; miniature.make(pathlib.Path(sys.argv[1]))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1"}

    command = [sys.executable, "-c", script, str(tmp_path / "again")]
    subprocess.run(command, check=True, env=environment, capture_output=True)

    assert _digests(tmp_path / "again") == _digests(miniature_folder)


def test_the_folder_is_whole_small_and_readable_by_all(miniature_folder):
    manifest = check_manifest(miniature_folder)

    assert manifest.preset == "miniature"
    assert sum(file.size_bytes for file in manifest.files) < 20_000_000
    assert all((miniature_folder / file.path).stat().st_mode & 0o444 == 0o444 for file in manifest.files)


def test_a_whole_miniature_is_left_alone(tmp_path):
    folder = tmp_path / "miniature"
    miniature.make(folder)
    before = (folder / MANIFEST_NAME).stat()

    miniature.make(folder)

    assert (folder / MANIFEST_NAME).stat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["miniature"]


def test_two_that_make_it_at_once_both_succeed(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(miniature.make, tmp_path / "miniature") for _ in range(2)]

    assert [made.exception() for made in both] == [None, None]
    assert check_manifest(tmp_path / "miniature").preset == "miniature"
    assert [path.name for path in tmp_path.iterdir()] == ["miniature"]


def test_a_damaged_miniature_is_refused_and_replaced_only_on_request(tmp_path):
    folder = tmp_path / "miniature"
    miniature.make(folder)
    with (folder / "ip-adapter.safetensors").open("r+b") as file:
        file.truncate(100)

    with pytest.raises(WeightsError, match="is left as it is"):
        miniature.make(folder)
    miniature.make(folder, overwrite=True)

    assert check_manifest(folder).preset == "miniature"


def test_another_model_is_refused_and_kept(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"precious")
    write_manifest(tmp_path, "instantid-sdxl", {"": Origin("made", "MIT")})

    with pytest.raises(WeightsError, match="holds the model instantid-sdxl"):
        miniature.make(tmp_path)

    assert (tmp_path / "weights.safetensors").read_bytes() == b"precious"


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"precious")

    with pytest.raises(WeightsError, match="not a whole miniature"):
        miniature.make(tmp_path)

    assert (tmp_path / "holiday.jpg").read_bytes() == b"precious"


def test_diffusers_own_pipeline_loads_the_base(miniature_folder):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(
        miniature_folder / "base", local_files_only=True, low_cpu_mem_usage=False
    )

    assert pipeline.tokenizer.model_max_length == pipeline.tokenizer_2.model_max_length == 77
    assert pipeline.config.force_zeros_for_empty_prompt


@pytest.mark.parametrize("subfolder", ["tokenizer", "tokenizer_2"])
@pytest.mark.parametrize("loader", [CLIPTokenizer, AutoTokenizer])
def test_both_tokenizers_load_and_take_usual_prompts_in_one_window(miniature_folder, subfolder, loader):
    tokenizer = loader.from_pretrained(miniature_folder / "base" / subfolder, local_files_only=True)

    lengths = [len(tokenizer(prompt).input_ids) for prompt in PROMPTS]

    assert max(lengths) <= 60


def test_the_second_tokenizer_pads_as_sdxls_does(miniature_folder):
    first, second = (
        CLIPTokenizer.from_pretrained(miniature_folder / "base" / name) for name in ("tokenizer", "tokenizer_2")
    )

    assert (first.pad_token, second.pad_token, second.pad_token_id) == ("<|endoftext|>", "!", 0)


_TOKENIZER = make_tokenizer()


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_tokenises_without_an_unknown_token(text):
    ids = _TOKENIZER(text, add_special_tokens=False).input_ids

    # Only a text that spells the end token out has it.
    assert "<|endoftext|>" in text.lower() or _TOKENIZER.eos_token_id not in ids
    assert all(0 <= token < len(_TOKENIZER) for token in ids)


def test_an_emoji_of_several_code_points_comes_back_whole():
    ids = _TOKENIZER("👩🏽‍🚀 grüßt", add_special_tokens=False).input_ids

    assert _TOKENIZER.decode(ids) == "👩🏽‍🚀 grüßt"


def _predict(model, latents, timestep, **changes):
    """One step's prediction for one row, as the engine makes it."""
    case = {
        "prompt": "a king",
        "face": 1,
        "landmarks": LANDMARKS,
        "identity_strength": 0.8,
        "identitynet_strength": 0.8,
        **changes,
    }
    face = torch.randn(512, generator=torch.Generator().manual_seed(case["face"])) * 20
    picture = torch.from_numpy(draw_landmarks(case["landmarks"], SIDE, SIDE))
    conditioning = model.condition([case["prompt"]], [face], picture)
    timesteps = torch.tensor([float(timestep)])
    strengths = torch.tensor([case["identitynet_strength"]])
    return model.unet(
        latents,
        timesteps,
        conditioning,
        text_mask=None,
        identity_strengths=torch.tensor([case["identity_strength"]]),
        residuals=model.identitynet(latents, timesteps, conditioning, strengths),
    )


def _noise(seed):
    return torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a queen in a castle"},
        {"face": 2},
        {"landmarks": LANDMARKS + np.float32(8)},
        {"identity_strength": 0.0},
        {"identity_strength": 1.5},
        {"identitynet_strength": 0.0},
        {"identitynet_strength": 1.5},
    ],
)
def test_each_condition_changes_the_prediction(miniature_model, change):
    latents = _noise(0)
    usual = _predict(miniature_model, latents, 500)

    changed = _predict(miniature_model, latents, 500, **change)

    assert torch.linalg.norm(changed - usual) / torch.linalg.norm(usual) > 0.02


def _sample(model, scheduler, **case):
    generator = torch.Generator().manual_seed(3)
    scheduler.set_timesteps(20)
    latents = torch.randn(1, 4, SIDE // 8, SIDE // 8, generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        without = _predict(model, scaled, timestep, prompt="")
        output = without + 5 * (_predict(model, scaled, timestep, **case) - without)
        latents = scheduler.step(output, timestep, latents).prev_sample
    return latents, model.decode(latents)[0]


@pytest.fixture(scope="module")
def usual(miniature_model):
    """The usual case's latents and picture by sampler, made once."""
    return {name: _sample(miniature_model, miniature_model.new_sampler(name, {})) for name in (EULER, DDIM)}


@pytest.mark.parametrize("name", [EULER, DDIM])
def test_twenty_steps_end_in_a_picture_of_middling_contrast(usual, name):
    latents, picture = usual[name]

    assert latents.isfinite().all()
    assert latents.std() < 10
    assert 80 < picture.mean() < 180
    assert 15 < picture.std() < 80
    assert ((picture == 0) | (picture == 255)).mean() < 0.2
    # Not noise: neighbouring pixels are alike.
    assert np.abs(np.diff(picture.astype(float), axis=1)).mean() < picture.std() / 2


def test_two_samplers_of_one_equation_agree(usual):
    (euler, _), (ddim, _) = usual[EULER], usual[DDIM]

    assert torch.linalg.norm(euler - ddim) / torch.linalg.norm(euler) < 0.1


@pytest.mark.parametrize("change", [{"prompt": "oil painting of a castle"}, {"face": 2}])
def test_another_person_or_prompt_is_another_picture(miniature_model, usual, change):
    _, other = _sample(miniature_model, miniature_model.new_sampler(EULER, {}), **change)

    assert np.abs(usual[EULER][1].astype(float) - other).mean() > 8
