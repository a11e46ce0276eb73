import shutil

import pytest
import torch
from safetensors.torch import load_file

from instantid_serve.errors import WeightsError
from instantid_serve.models.adopt import ADOPTED, adopt
from instantid_serve.models.weights import check_manifest


@pytest.fixture
def folder(miniature_folder, tmp_path):
    """A model folder that has no manifest."""
    place = tmp_path / "own"
    shutil.copytree(miniature_folder, place, ignore=shutil.ignore_patterns("manifest.json"))
    return place


def test_an_adopted_folder_passes_the_check_and_says_so(folder):
    manifest = adopt(folder, "instantid-sdxl")

    assert check_manifest(folder) == manifest
    assert manifest.preset == "instantid-sdxl"
    assert {(file.source, file.licence) for file in manifest.files} == {(ADOPTED.source, ADOPTED.licence)}


def test_a_byte_changed_after_adoption_is_refused(folder):
    adopt(folder, "instantid-sdxl")
    with (folder / "base" / "vae" / "config.json").open("a") as file:
        file.write(" ")

    with pytest.raises(WeightsError, match=r"base/vae/config\.json"):
        check_manifest(folder)


def test_instantx_pickle_is_converted_on_adoption(folder):
    tensors = load_file(folder / "ip-adapter.safetensors")
    state = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        state[group][name] = tensor
    torch.save(state, folder / "ip-adapter.bin")
    (folder / "ip-adapter.safetensors").unlink()

    adopt(folder, "instantid-sdxl")

    assert load_file(folder / "ip-adapter.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize("name", ["base/unet/model.bin", "x.ckpt", "ControlNetModel/weights.PT", "lora.pkl"])
def test_a_pickle_is_not_adopted(folder, name):
    (folder / name).write_bytes(b"x")

    with pytest.raises(WeightsError, match="is a pickle") as caught:
        adopt(folder, "instantid-sdxl")

    assert caught.value.facts == {"file": name}


@pytest.mark.parametrize(
    "lost",
    [
        "base/model_index.json",
        "base/scheduler/scheduler_config.json",
        "base/unet/diffusion_pytorch_model.safetensors",
        "base/vae/config.json",
        "base/text_encoder_2/model.safetensors",
        "base/tokenizer_2/tokenizer.json",
        "ControlNetModel/config.json",
        "ip-adapter.safetensors",
    ],
)
def test_a_folder_that_lacks_a_part_is_not_adopted(folder, lost):
    (folder / lost).unlink()

    with pytest.raises(WeightsError, match="is no model folder"):
        adopt(folder, "instantid-sdxl")

    assert not (folder / "manifest.json").exists()


def test_a_preset_that_is_not_served_is_refused(folder):
    with pytest.raises(WeightsError, match="there is no model 'sd15' to adopt"):
        adopt(folder, "sd15")
