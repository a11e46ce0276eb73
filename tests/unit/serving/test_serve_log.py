"""Over the handlers that Serve itself makes in a replica, without a cluster."""

import json
import logging

import pytest
from ray.serve._private.common import ServeComponentType
from ray.serve._private.logging_utils import configure_component_logger
from ray.serve.schema import LoggingConfig

from instantid_serve.log_context import logged
from instantid_serve.serving.serve_log import ServeLog


@pytest.fixture
def serve():
    """Serve's logger, as it was before at the end."""
    logger = logging.getLogger("ray.serve")
    before = logger.handlers[:], logger.filters[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.filters[:] = before[:2]
    logger.setLevel(before[2])
    logger.propagate = before[3]


@pytest.fixture
def ours(serve):
    logger, log = logging.getLogger("instantid_serve.test_serve_log"), ServeLog(serve, "Generator", "r1")
    logger.addHandler(log)
    logger.propagate = False
    yield logger
    logger.removeHandler(log)


@pytest.fixture
def configure(serve, ours, tmp_path):  # noqa: ARG001 - in a replica our handler is there first
    """Do what Serve does when a replica starts, and when its logging_config changes."""
    files = []

    def configured(encoding):
        configure_component_logger(
            component_name="instantid_Generator",
            component_id="r1",
            logging_config=LoggingConfig(encoding=encoding, logs_dir=str(tmp_path), enable_access_log=False),
            component_type=ServeComponentType.REPLICA,
            max_bytes=1_000_000,
            backup_count=1,
        )
        files.extend(handler.target for handler in serve.handlers if hasattr(handler, "target"))

    yield configured
    for file in files:
        file.close()


def written(folder):
    [path] = folder.glob("*.log")
    return path.read_text().splitlines()


def test_under_json_our_records_are_lines_of_ours_in_serves_file_and_on_stderr(ours, tmp_path, capsys, configure):
    configure("JSON")

    with logged(job_id="gen_1", tenant="acme", attempt=1):
        ours.warning("a step failed")

    [line] = written(tmp_path)
    found = json.loads(line)
    assert (found["job_id"], found["deployment"], found["replica"]) == ("gen_1", "Generator", "r1")
    assert json.loads(capsys.readouterr().err) == found


def test_what_serve_logs_of_a_failed_call_does_not_hold_the_errors_words(serve, tmp_path, configure):
    configure("JSON")

    serve.error("Request failed.", exc_info=ValueError("a canary"))

    [line] = written(tmp_path)
    assert "canary" not in line
    assert json.loads(line)["error"] == "ValueError"


def test_under_text_lines_are_readable_and_as_careful(serve, ours, tmp_path, configure):
    configure("TEXT")

    ours.warning("the end of %s", "Bearer canary")
    serve.error("Request failed.", exc_info=ValueError("a canary"))

    first, second = written(tmp_path)
    assert first.endswith("the end of Bearer [redacted] deployment=Generator replica=r1")
    assert "error=ValueError" in second
    assert "canary" not in second


def test_handlers_that_serve_makes_later_write_our_lines_too(serve, ours, tmp_path, configure):
    configure("TEXT")
    ours.warning("first")

    configure("JSON")
    serve.info("second")

    first, second = written(tmp_path)
    assert "first" in first
    assert json.loads(second)["message"] == "second"


def test_serves_access_lines_stay_off_where_the_config_says_so(serve, tmp_path, configure):
    configure("JSON")

    serve.info("GET /v1/generations/{job_id} 200 1.0ms", extra={"serve_access_log": True})

    assert written(tmp_path) == []
