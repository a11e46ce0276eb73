"""Redis for the tests, started once per session (a pytest plugin)."""

import shutil

import pytest
from local_server import LocalServer
from required_parts import missing


class RedisServer(LocalServer):
    """A Redis that keeps nothing: a stop forgets all of it."""

    def __init__(self, program):
        super().__init__("redis")
        self._program = program

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self):
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.folder]
        return [self._program, *options, "--save", "", "--appendonly", "no"]

    def answers(self):
        import redis

        try:
            with redis.Redis.from_url(self.url, socket_timeout=5) as client:
                client.ping()
        except redis.RedisError as error:
            raise ConnectionError(str(error)) from error


@pytest.fixture(scope="session")
def redis_server():
    """A running Redis server. Its keys are everyone's: a test takes a prefix of its own, or flushes first."""
    program = shutil.which("redis-server")
    if program is None:
        missing("redis", "Redis is not installed: apt-get install redis-server")
    server = RedisServer(program)
    try:
        server.start()
        yield server
    finally:
        server.remove()
