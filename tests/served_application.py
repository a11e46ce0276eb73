"""The whole application on a real Ray cluster of this machine, for integration and chaos tests (a pytest plugin).

One cluster serves all of a session's tests; the application is deployed anew for each configuration.
"""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import pytest
from required_parts import missing

LOCAL = Path(__file__).parents[1] / "deployments" / "local.yaml"
KEYS = {"acme": "key-of-acme", "other": "key-of-other", "third": "key-of-third"}  # tenant -> API key
SETTINGS = {
    # A job whose worker was killed is claimed again within seconds instead of half a minute.
    "dispatcher": {"lease_s": 2.0, "heartbeat_s": 0.25, "poll_s": 0.05, "release_delay_s": 0.2, "drain_timeout_s": 2.0},
    "limits": {"native_side": 128},
    "api": {"keys": [{"tenant": t, "sha256": hashlib.sha256(k.encode()).hexdigest()} for t, k in KEYS.items()]},
}


@dataclasses.dataclass(frozen=True)
class Served:
    """A running application."""

    config: object
    photo: bytes

    @property
    def url(self):
        return self.config.url

    def http(self, tenant="acme"):
        """A plain HTTP client with the tenant's key."""
        import httpx2

        headers = {"Authorization": f"Bearer {KEYS[tenant]}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=90.0, trust_env=False)

    def sdk(self, tenant="acme"):
        """The package's own client with the tenant's key."""
        from instantid_serve.client import Client

        return Client(self.url, KEYS[tenant])

    def pids(self, deployment):
        """Process ids of a deployment's replicas, as Serve knows them now."""
        from ray.serve.context import _get_global_client

        details = _get_global_client().get_serve_details()["applications"][self.config.application.name]
        replicas = details["deployments"][deployment]["replicas"]
        return {replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}


def with_generators(config, *, num_replicas, num_cpus):
    """The config with so many Generators, each asking for so many CPUs; another number of CPUs restarts them."""
    schema = config.schema.model_copy(deep=True)
    (generator,) = (d for d in schema.applications[0].deployments if d.name == "Generator")
    generator.num_replicas = num_replicas
    generator.ray_actor_options.num_cpus = num_cpus
    return dataclasses.replace(config, schema=schema)


def _with_doubles(python_path):
    """The path on which Ray's workers find what is importable here."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parent), python_path]))


@pytest.fixture(scope="session")
def cluster():
    """A one-node Ray cluster; nothing is served yet."""
    short = tempfile.mkdtemp(prefix="iid-", dir="/tmp")  # Ray puts sockets below it, whose paths must be short
    environment = {
        "RAY_AUTH_MODE": "disabled",  # its token would be written into the home directory
        "RAY_TMPDIR": short,
        "PYTHONPATH": _with_doubles(os.environ.get("PYTHONPATH")),
        "RAY_USAGE_STATS_ENABLED": "0",
        # What S3 clients need; moto takes any. Replicas inherit these from the cluster.
        "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "testing"),
        "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", "testing"),
        "AWS_DEFAULT_REGION": os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        from instantid_serve.serving import up
        from instantid_serve.serving.config import ServeConfig

        with up.cluster(ServeConfig.load(LOCAL)):
            yield up._free_port()
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(scope="session")
def astronaut():
    """A real photo of a real face, as JPEG."""
    import skimage.data
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(stream, "JPEG", quality=92)
    return stream.getvalue()


@pytest.fixture(scope="session")
def serve_with(cluster, miniature_folder, astronaut, tmp_path_factory):
    """Serve the application with given results settings (None: a folder) and database URL, and return it.

    It goes on being served until other settings are asked for: a start costs more than most tests. So tests leave it
    as they found it, and modules that want the same are named to run one after the other.
    """
    from ray import serve

    from instantid_serve.serving import up
    from instantid_serve.serving.config import ServeConfig

    now, calibration = {}, tmp_path_factory.mktemp("calibration")

    def served(
        results=None, *, database=None, model_folder=miniature_folder, engine=None, import_path=None, generators=None
    ):
        key = json.dumps([results, database, str(model_folder), engine, import_path, generators])
        if key not in now:
            for config in now.values():
                serve.delete(config.application.name)
            now.clear()
            now[key] = config = ServeConfig.load(
                LOCAL, port=cluster, overrides=settings_for(results, database, model_folder, engine)
            )
            config.application.import_path = import_path or config.application.import_path
            up.deploy(with_generators(config, **generators) if generators else config)
            up.wait_until_ready(config, deadline_s=120)
        return Served(now[key], astronaut)

    def settings_for(results, database, model_folder, engine):
        folder = tmp_path_factory.mktemp("served")
        return {
            **SETTINGS,
            "model": {"folder": str(model_folder)},
            "engine": {"calibration_folder": str(calibration), **(engine or {})},
            "database": {"url": database or f"sqlite:///{folder / 'jobs.sqlite3'}"},
            "results": results or {"kind": "folder", "folder": str(folder / "results")},
        }

    return served


@pytest.fixture(scope="session")
def moto_bucket():
    """Settings of a bucket on moto's server, in this process."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "kind": "s3",
        "bucket": "pictures",
        "prefix": "service",
        "endpoint_url": f"http://{host}:{port}",
        "addressing_style": "path",
    }
    client = boto3.client("s3", endpoint_url=settings["endpoint_url"], region_name="us-east-1")
    client.create_bucket(Bucket="pictures")
    yield settings
    server.stop()


@pytest.fixture(scope="session")
def real_bucket():
    """Settings of a new bucket on the S3 server that the environment names."""
    import boto3
    from botocore.config import Config

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3")
    if not endpoint:
        missing("s3", "AWS_ENDPOINT_URL_S3 names no S3 server")
    bucket = f"instantid-{uuid.uuid4().hex[:12]}"
    style = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    boto3.client("s3", endpoint_url=endpoint, config=style).create_bucket(Bucket=bucket)
    return {
        "kind": "s3",
        "bucket": bucket,
        "prefix": "service",
        "endpoint_url": endpoint,
        "addressing_style": "path",
        "checksums": "when_required",
    }
