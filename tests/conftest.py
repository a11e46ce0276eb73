"""Fixtures that every kind of test may use."""

import os

# Before torch, ONNX Runtime or OpenCV start their thread pools: on a small machine several pools starve each other.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import pytest  # noqa: E402 - after the variables above

pytest_plugins = [
    "required_parts",
    "postgres_server",
    "redis_server",
    "served_application",  # the whole application, for integration and chaos tests
]


@pytest.fixture(scope="session")
def miniature_folder(tmp_path_factory):
    """A model folder with the miniature in it."""
    from instantid_serve.models import miniature

    folder = tmp_path_factory.mktemp("models") / "miniature"
    miniature.make(folder)
    return folder


@pytest.fixture(scope="session")
def miniature_model(miniature_folder):
    """The miniature, loaded: one for the whole session, because no request may leave anything on it."""
    import torch

    from instantid_serve.models.instantid import InstantIDModel

    torch.set_num_threads(1)
    return InstantIDModel.open(miniature_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory):
    """An SQLite file with this version's tables, to be copied: migrating takes longer."""
    from instantid_serve.service.database import open_database, upgrade

    file = tmp_path_factory.mktemp("migrated") / "jobs.sqlite3"
    database = open_database(f"sqlite:///{file}")
    upgrade(database)
    database.close()
    return file
