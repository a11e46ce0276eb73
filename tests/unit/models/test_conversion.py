import collections
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from instantid_serve.errors import WeightsError
from instantid_serve.models.conversion import convert_ip_adapter, read_ip_adapter


def _adapter(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    projection = {"latents": (1, 4, 8), "proj_in.bias": (8,), "layers.0.0.to_kv.weight": (16, 8)}
    return {
        "image_proj": collections.OrderedDict(
            (key, torch.randn(shape, generator=generator).to(dtype)) for key, shape in projection.items()
        ),
        "ip_adapter": {"1.to_k_ip.weight": torch.randn(8, 8, generator=generator).to(dtype)},
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_conversion_keeps_every_number_and_its_precision(tmp_path, dtype):
    state = _adapter(dtype)
    torch.save(state, tmp_path / "ip-adapter.bin")

    convert_ip_adapter(tmp_path / "ip-adapter.bin", tmp_path / "ip-adapter.safetensors")

    converted = load_file(tmp_path / "ip-adapter.safetensors")
    expected = {f"{group}.{key}": value for group, values in state.items() for key, value in values.items()}
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[key], value) and converted[key].dtype == dtype for key, value in expected.items())


@pytest.mark.parametrize("name", ["ip-adapter.bin", "ip-adapter.safetensors"])
def test_both_formats_read_alike(tmp_path, name):
    state = _adapter()
    torch.save(state, tmp_path / "ip-adapter.bin")
    convert_ip_adapter(tmp_path / "ip-adapter.bin", tmp_path / "ip-adapter.safetensors")

    read = read_ip_adapter(tmp_path / name)

    assert {group: set(values) for group, values in read.items()} == {g: set(v) for g, v in state.items()}
    assert torch.equal(read["image_proj"]["latents"], state["image_proj"]["latents"])


def test_views_of_one_stored_tensor_are_converted(tmp_path):
    state = _adapter()
    both = torch.arange(32.0).reshape(4, 8)
    state["ip_adapter"] = {"1.to_k_ip.weight": both[:2], "1.to_v_ip.weight": both[2:].T}
    torch.save(state, tmp_path / "ip-adapter.bin")

    convert_ip_adapter(tmp_path / "ip-adapter.bin", tmp_path / "ip-adapter.safetensors")

    converted = load_file(tmp_path / "ip-adapter.safetensors")
    assert torch.equal(converted["ip_adapter.1.to_v_ip.weight"], both[2:].T)


class _Hostile:
    """Runs a command when it is unpickled the usual way."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, save):
    marker = tmp_path / "ran"
    save({"image_proj": _Hostile(marker), "ip_adapter": {}}, tmp_path / "ip-adapter.bin")

    with pytest.raises(WeightsError, match="not a pickle of tensors only"):
        read_ip_adapter(tmp_path / "ip-adapter.bin")

    assert not marker.exists()


def _without_group(state):
    del state["ip_adapter"]


def _with_third_group(state):
    state["extra"] = {"1.to_k_ip.weight": torch.zeros(2, 2)}


def _with_foreign_key(state):
    state["image_proj"]["__class__"] = torch.zeros(2)


def _with_number_for_key(state):
    state["ip_adapter"][1] = torch.zeros(2)


def _with_integers(state):
    state["ip_adapter"]["1.to_k_ip.weight"] = torch.zeros(2, 2, dtype=torch.int64)


def _with_text(state):
    state["image_proj"]["latents"] = "latents"


def _with_endless_view(state):
    # 4 stored bytes that claim to be 4 TB
    state["image_proj"]["latents"] = torch.zeros(1).expand(1 << 20, 1 << 20)


def _with_sparse_tensor(state):
    state["image_proj"]["latents"] = torch.eye(3).to_sparse()


@pytest.mark.parametrize(
    "spoil",
    [
        _without_group,
        _with_third_group,
        _with_foreign_key,
        _with_number_for_key,
        _with_integers,
        _with_text,
        _with_endless_view,
        _with_sparse_tensor,
    ],
)
def test_anything_but_the_two_groups_of_tensors_is_refused(tmp_path, spoil):
    state = _adapter()
    spoil(state)
    torch.save(state, tmp_path / "ip-adapter.bin")

    with pytest.raises(WeightsError):
        convert_ip_adapter(tmp_path / "ip-adapter.bin", tmp_path / "ip-adapter.safetensors")

    assert not (tmp_path / "ip-adapter.safetensors").exists()


@pytest.mark.parametrize("name", ["ip-adapter.bin", "ip-adapter.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 garbage", b"\xff" * 64])
def test_a_broken_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(WeightsError, match=name):
        read_ip_adapter(tmp_path / name)


def test_another_models_safetensors_are_refused(tmp_path):
    save_file({"unet.weight": torch.zeros(2)}, tmp_path / "other.safetensors")

    with pytest.raises(WeightsError, match="not an InstantID adapter"):
        read_ip_adapter(tmp_path / "other.safetensors")
