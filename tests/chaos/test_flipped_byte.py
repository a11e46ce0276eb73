"""A model folder that is not what its manifest says is never served."""

import shutil

import pytest

from instantid_serve.errors import ConfigurationError


def test_one_flipped_byte_of_a_weight_file_stops_the_start_and_names_the_file(serve_with, miniature_folder, tmp_path):
    folder = tmp_path / "miniature"
    shutil.copytree(miniature_folder, folder)
    weights = folder / "ControlNetModel" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)

    named = r"ControlNetModel/diffusion_pytorch_model\.safetensors"
    with pytest.raises(ConfigurationError, match=named):
        serve_with(model_folder=folder)
