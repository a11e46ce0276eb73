"""Keys, the folder's durability, and S3 servers that hang, refuse or break off."""

import contextlib
import os
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantid_serve.errors import InvalidRequestError, StoreError
from instantid_serve.service.results import FolderStore, S3Store, image_key, photo_key
from instantid_serve.settings import S3StoreSettings

KEY = photo_key("alice", "gen_1")


class TestKeys:
    def test_they_are_built_from_ids_alone(self):
        assert photo_key("alice", "gen_06h0") == "alice/gen_06h0/photo"
        assert image_key("alice", "gen_06h0", 2, 3, "webp") == "alice/gen_06h0/2/3.webp"

    @given(st.text(), st.text(), st.integers(), st.integers(), st.text())
    def test_nothing_leaves_the_tenants_prefix(self, tenant, job_id, attempt, index, image_format):
        for build in (
            lambda: photo_key(tenant, job_id),
            lambda: image_key(tenant, job_id, attempt, index, image_format),
        ):
            with contextlib.suppress(InvalidRequestError):
                assert os.path.normpath(f"/store/{build()}").startswith(f"/store/{tenant}/{job_id}/")

    @pytest.mark.parametrize("tenant", ["..", ".", "", "a/b", "a\n", "-a", "ä", "a" * 64, "a\x00"])
    def test_odd_tenants_are_refused(self, tenant):
        with pytest.raises(InvalidRequestError):
            photo_key(tenant, "gen_1")

    @pytest.mark.parametrize("job_id", ["gen_", "gen_..", "gen_1/..", "1", "gen_1\n", "gen_%2e", "gen_" + "a" * 41])
    def test_odd_job_ids_are_refused(self, job_id):
        with pytest.raises(InvalidRequestError):
            photo_key("alice", job_id)

    @pytest.mark.parametrize(("attempt", "index", "image_format"), [(-1, 0, "png"), (0, -1, "png"), (0, 0, "exe")])
    def test_odd_parts_of_a_picture_are_refused(self, attempt, index, image_format):
        with pytest.raises(InvalidRequestError):
            image_key("alice", "gen_1", attempt, index, image_format)


class TestFolder:
    def test_a_write_that_fails_leaves_nothing(self, tmp_path):
        store = FolderStore(tmp_path)

        with pytest.raises(TypeError):
            store.put(KEY, "not bytes", "image/png")

        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_a_finished_write_leaves_the_object_alone(self, tmp_path):
        FolderStore(tmp_path).put(KEY, b"photo", "image/png")

        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / KEY]

    def test_a_file_in_the_folders_place_is_a_store_error(self, tmp_path):
        (tmp_path / "results").write_bytes(b"")

        with pytest.raises(StoreError):
            FolderStore(tmp_path / "results")


class Server:
    """Accepts connections and treats each as told: ``hang`` says nothing, ``break`` ends in the middle of a body."""

    def __init__(self, manner):
        self.manner = manner
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                if self.manner == "break":
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
                    connection.close()

    def close(self):
        self.listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def serve():
    servers = []

    def start(manner):
        servers.append(Server(manner))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def s3_store(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")

    def open_at(url):
        settings = S3StoreSettings(
            kind="s3",
            bucket="bucket",
            endpoint_url=url,
            region="us-east-1",
            addressing_style="path",
            connect_timeout_s=0.5,
            read_timeout_s=0.5,
            max_attempts=2,
        )
        return S3Store(settings)

    return open_at


class TestBrokenServers:
    @pytest.mark.parametrize("use", ["get", "put", "delete", "ping"])
    def test_one_that_hangs_is_given_up_in_time(self, serve, s3_store, use):
        server = serve("hang")
        store = s3_store(server.url)
        arguments = {"get": (KEY,), "put": (KEY, b"photo", "image/png"), "delete": (KEY,), "ping": ()}[use]
        began = time.monotonic()

        with pytest.raises(StoreError) as caught:
            getattr(store, use)(*arguments)

        assert time.monotonic() - began < 5
        assert len(server.connections) == 2  # it was tried as often as the settings say
        assert caught.value.__cause__ is not None

    def test_one_that_is_not_there_is_a_store_error(self, s3_store):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        with pytest.raises(StoreError):
            s3_store(url).get(KEY)

    def test_a_body_that_breaks_off_is_a_store_error(self, serve, s3_store):
        with pytest.raises(StoreError):
            s3_store(serve("break").url).get(KEY)
