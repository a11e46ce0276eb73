"""Devices and models for tests whose bodies run on any device, and the skip where there is no CUDA."""

import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(params=DEVICES, scope="session")
def device(request):
    return request.param


@pytest.fixture(scope="session")
def load(miniature_folder, device):
    """Load the miniature in a precision; each only once."""
    from instantid_serve.models.instantid import InstantIDModel

    torch.set_num_threads(1)
    loaded = {}

    def get(dtype="float32"):
        if dtype not in loaded:
            loaded[dtype] = InstantIDModel.load(miniature_folder, device=device, dtype=dtype)
        return loaded[dtype]

    return get
