"""The servers that tests start themselves, and what becomes of those tests where a server is missing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

TESTS = Path(__file__).parents[1]
PLUGINS = ["required_parts", "postgres_server", "redis_server", "served_application"]
ASKING_FOR_EACH = """
def test_of_postgres(postgres): pass
def test_of_redis(redis_server): pass
def test_of_s3(real_bucket): pass
"""
TELLS_AND_STAYS = """
import pathlib, time
def test_of_both(postgres, redis_server):
    pathlib.Path("told").write_text(f"{postgres.folder} {redis_server.folder}\\n")
    time.sleep(60)
"""


@pytest.fixture
def run_pytest(tmp_path):
    """Starts a pytest of its own on a test file, which finds our plugins and what the environment names."""

    def start(tests, debians="/usr/lib/postgresql", **environment):
        plugins = f"import local_postgres\npytest_plugins = {PLUGINS}\nlocal_postgres.DEBIANS = {debians!r}\n"
        (tmp_path / "conftest.py").write_text(plugins)
        (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        (tmp_path / "test_asking.py").write_text(tests)
        kept = {
            name: value for name, value in os.environ.items() if name not in {"AWS_ENDPOINT_URL_S3", "TESTS_REQUIRE"}
        }
        environment = {**kept, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", **environment}
        command = [sys.executable, "-m", "pytest", "-ra", "-q", "-p", "no:cacheprovider"]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)

    return start


def test_what_is_missing_is_skipped_with_the_reason(run_pytest):
    told = run_pytest(ASKING_FOR_EACH, debians="/nowhere", PATH="/nowhere").communicate(timeout=60)[0]

    assert "3 skipped" in told
    assert "apt-get install postgresql" in told
    assert "apt-get install redis-server" in told


def test_what_is_missing_fails_where_it_is_required(run_pytest):
    required = {"PATH": "/nowhere", "TESTS_REQUIRE": "postgres,redis,s3"}

    told = run_pytest(ASKING_FOR_EACH, debians="/nowhere", **required).communicate(timeout=60)[0]

    assert "3 errors" in told
    assert "TESTS_REQUIRE names redis: Redis is not installed" in told


def test_requiring_what_does_not_exist_is_refused(run_pytest):
    asked = run_pytest(ASKING_FOR_EACH, TESTS_REQUIRE="postgers")

    asked.communicate(timeout=60)

    assert asked.returncode == pytest.ExitCode.USAGE_ERROR


def test_redis_answers(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.ping()


@pytest.mark.usefixtures("postgres", "redis_server")  # where they are missing, so are the ones below
def test_servers_and_their_folders_go_with_a_pytest_that_was_killed(run_pytest, tmp_path):
    killed = run_pytest(TELLS_AND_STAYS)
    told = tmp_path / "told"
    wait_until(lambda: told.exists() and told.read_text().endswith("\n"))
    folders = [Path(folder) for folder in told.read_text().split()]

    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)

    wait_until(lambda: not any(folder.exists() for folder in folders))


def wait_until(condition, timeout_s=60.0):
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)
