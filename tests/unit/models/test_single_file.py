import pickle
import shutil

import pytest
import torch
from doubles.original_layout import write_single_file
from safetensors.torch import load_file, save_file

from instantid_serve.errors import WeightsError
from instantid_serve.models.single_file import convert_single_file

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}


@pytest.fixture(scope="module")
def single_file(miniature_folder, tmp_path_factory):
    """The miniature's base as one file in the layout of the original SDXL code."""
    file = tmp_path_factory.mktemp("single") / "base.safetensors"
    write_single_file(miniature_folder / "base", file)
    return file


@pytest.fixture(scope="module")
def configuration(miniature_folder, tmp_path_factory):
    """The miniature's base without its weights."""
    folder = tmp_path_factory.mktemp("configuration") / "base"
    shutil.copytree(miniature_folder / "base", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_every_tensor_of_a_single_file_comes_through(miniature_folder, single_file, configuration, tmp_path):
    convert_single_file(single_file, configuration, tmp_path / "base")

    for part, name in WEIGHTS.items():
        original = load_file(miniature_folder / "base" / part / name)
        converted = load_file(tmp_path / "base" / part / name)
        assert converted.keys() == original.keys()
        assert [key for key in original if not torch.equal(original[key], converted[key])] == []


def test_the_converted_folder_makes_the_same_model(miniature_folder, single_file, configuration, tmp_path):
    from instantid_serve.models.instantid import InstantIDModel

    folder = tmp_path / "model"
    shutil.copytree(miniature_folder, folder, ignore=shutil.ignore_patterns("base", "manifest.json"))
    convert_single_file(single_file, configuration, folder / "base")

    model, original = (InstantIDModel.load(place) for place in (folder, miniature_folder))

    picture = torch.zeros(64, 64, 3, dtype=torch.uint8)
    ours, theirs = (m.condition(["a king in a castle"], [torch.ones(512)], picture) for m in (model, original))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_files_precision_is_kept(single_file, configuration, tmp_path):
    half = {key: tensor.half() for key, tensor in load_file(single_file).items()}
    save_file(half, tmp_path / "half.safetensors")

    convert_single_file(tmp_path / "half.safetensors", configuration, tmp_path / "base")

    for part, name in WEIGHTS.items():
        assert {t.dtype for t in load_file(tmp_path / "base" / part / name).values()} == {torch.float16}


@pytest.mark.parametrize(
    "lost",
    [
        "model.diffusion_model.output_blocks.8.0.skip_connection.weight",
        "first_stage_model.decoder.conv_out.bias",
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
        "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_fc.bias",
    ],
)
def test_a_file_that_lacks_one_tensor_is_refused(single_file, configuration, tmp_path, lost):
    state = load_file(single_file)
    del state[lost]
    save_file(state, tmp_path / "holed.safetensors")

    with pytest.raises(WeightsError, match=r"holed\.safetensors (holds \d+ numbers for the|is not a whole SDXL)"):
        convert_single_file(tmp_path / "holed.safetensors", configuration, tmp_path / "base")

    assert not (tmp_path / "base").exists()


def test_a_file_without_a_vae_is_refused(single_file, configuration, tmp_path):
    state = {key: value for key, value in load_file(single_file).items() if not key.startswith("first_stage_model.")}
    save_file(state, tmp_path / "partial.safetensors")

    with pytest.raises(WeightsError, match="it has no vae"):
        convert_single_file(tmp_path / "partial.safetensors", configuration, tmp_path / "base")


@pytest.mark.parametrize("name", ["base.ckpt", "base.bin", "base.pt"])
def test_a_pickle_is_refused_unread(configuration, tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({}))

    with pytest.raises(WeightsError, match="a pickle could run code"):
        convert_single_file(tmp_path / name, configuration, tmp_path / "base")


def test_a_pickle_that_calls_itself_safetensors_is_refused(configuration, tmp_path):
    (tmp_path / "base.safetensors").write_bytes(pickle.dumps({"model": 1}))

    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        convert_single_file(tmp_path / "base.safetensors", configuration, tmp_path / "base")
