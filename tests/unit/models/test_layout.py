import pytest

from instantid_serve.errors import WeightsError
from instantid_serve.models.layout import choose_base_files, choose_configuration

CONFIGURATION = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/merges.txt",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
}
PLAIN = {
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
}


def test_half_precision_is_preferred_and_takes_the_plain_name():
    names = CONFIGURATION | PLAIN | {"unet/diffusion_pytorch_model.fp16.safetensors"}

    chosen = choose_base_files(names)

    assert chosen["unet/diffusion_pytorch_model.fp16.safetensors"] == "unet/diffusion_pytorch_model.safetensors"
    assert "unet/diffusion_pytorch_model.safetensors" not in chosen
    assert set(chosen.values()) == CONFIGURATION | PLAIN


def test_a_part_in_shards_is_taken_whole():
    shards = {f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    names = CONFIGURATION | PLAIN - {"unet/diffusion_pytorch_model.safetensors"} | shards | {index}

    chosen = choose_base_files(names)

    assert shards | {index} <= set(chosen)


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "sd_xl_base_1.0.safetensors",
        "unet/openvino_model.bin",
        "unet/model.onnx",
        "vae_1_0/config.json",
        "tokenizer/../../evil.json",
        "tokenizer/code.py",
        "unet/modeling.py",
    ],
)
def test_what_no_loader_needs_is_not_taken(name):
    assert name not in choose_base_files(CONFIGURATION | PLAIN | {name})


def test_a_shard_never_leads_out_of_its_part():
    inside = "unet/diffusion_pytorch_model-00001-of-00001.safetensors"
    outside = "unet/diffusion_pytorch_model-/../../../evil.safetensors"
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    names = CONFIGURATION | PLAIN - {"unet/diffusion_pytorch_model.safetensors"} | {inside, outside, index}

    chosen = choose_base_files(names)

    assert inside in chosen
    assert outside not in chosen


def test_configurations_come_without_weights():
    assert set(choose_configuration(CONFIGURATION | PLAIN)) == CONFIGURATION


def test_a_folder_of_something_else_is_refused():
    with pytest.raises(WeightsError, match=r"no model_index\.json"):
        choose_base_files({"sd_xl_base_1.0.safetensors"})
