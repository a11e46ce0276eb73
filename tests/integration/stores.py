"""Result stores to test against: a folder, moto's server over real HTTP, and a real S3 server where there is one.

``store_settings`` is what a deployment's ``results`` section would be; import the fixtures into the test module.
"""

import os
import uuid
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer
from required_parts import missing

from instantid_serve.service.results import ResultStore, open_store
from instantid_serve.settings import FolderStoreSettings, S3StoreSettings

S3_ENDPOINT = os.environ.get("AWS_ENDPOINT_URL_S3")
STORES = ["folder", "moto", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=STORES)
def store_settings(request, tmp_path, monkeypatch) -> FolderStoreSettings | S3StoreSettings:
    if request.param == "folder":
        return FolderStoreSettings(folder=tmp_path / "results")
    if request.param == "moto":
        # The endpoint is given by name, or a real one in the environment would be used instead.
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
        return s3_settings(request.getfixturevalue("moto_endpoint"))
    if not S3_ENDPOINT:
        missing("s3", "AWS_ENDPOINT_URL_S3 names no S3 server")
    return s3_settings(S3_ENDPOINT)


@pytest.fixture
def store(store_settings) -> ResultStore:
    return open_store(store_settings)


def s3_settings(endpoint_url: str, **changes: object) -> S3StoreSettings:
    """Settings of a new bucket of its own."""
    bucket = f"instantid-{uuid.uuid4().hex}"
    values = {
        "kind": "s3",
        "bucket": bucket,
        "prefix": "results",
        "endpoint_url": endpoint_url,
        "region": os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        "addressing_style": "path",
        "checksums": "when_required",
    }
    settings = S3StoreSettings(**values | changes)
    client = boto3.client("s3", endpoint_url=endpoint_url, region_name=settings.region)
    client.create_bucket(Bucket=bucket)
    return settings
