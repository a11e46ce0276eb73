import json
import logging
import sys

import numpy as np
import pytest

from instantid_serve.errors import DatabaseError, MultipleFacesError
from instantid_serve.log_context import logged
from instantid_serve.log_lines import LineFormatter

OURS, LIBRARY = "instantid_serve.service.dispatcher", "diffusers.pipelines"


def record(logger=OURS, message="a message", *args, error=None, **extra):
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord(logger, logging.WARNING, "/lib/module.py", 7, message, args, exc_info)
    made.__dict__.update(extra)
    return made


def line(made):
    return LineFormatter(as_json=True, deployment="Generator", replica="abc").format(made)


def told(made):
    return json.loads(line(made))


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def test_every_line_has_the_same_fields_known_or_not():
    found = told(record())

    assert list(found) == [
        *("ts", "level", "logger", "message", "deployment", "replica"),
        *("request_id", "job_id", "tenant", "attempt", "fence"),
    ]
    assert (found["level"], found["logger"], found["deployment"]) == ("WARNING", OURS, "Generator")
    assert found["job_id"] is None


def test_a_line_says_what_its_scope_is_about_whatever_ray_calls_its_own_job():
    with logged(request_id="r", job_id="gen_1", tenant="acme", attempt=2):
        found = told(record(job_id="02000000", worker_id="w", request_id="of Serve", replica="x"))

    assert (found["request_id"], found["job_id"], found["tenant"], found["attempt"]) == ("r", "gen_1", "acme", 2)
    assert found["replica"] == "abc"
    assert "worker_id" not in found


def test_our_own_extras_are_written_and_a_librarys_are_not():
    assert told(record(outcome="settled"))["outcome"] == "settled"
    assert "outcome" not in told(record(LIBRARY, outcome="settled"))


def test_a_librarys_message_is_withheld_and_its_place_is_named():
    found = line(record(LIBRARY, "your input was truncated: %s", "a canary"))

    assert "canary" not in found
    assert "/lib/module.py:7" in found


def test_serves_own_messages_are_kept():
    assert told(record("ray.serve", "Started %s", "it"))["message"] == "Started it"


@pytest.mark.parametrize("logger", [OURS, LIBRARY, "ray.serve"])
def test_a_foreign_error_is_its_class_and_the_lines_it_passed_without_its_words_or_source(logger):
    error = raised(ValueError("a canary"), KeyError("a canary"))  # a canary in a line of source

    found = line(record(logger, error=error))

    assert "canary" not in found
    assert json.loads(found)["error"] == "ValueError"
    assert json.loads(found)["where"][-1].startswith(f"{__file__}:")
    assert json.loads(found)["causes"] == ["KeyError"]


def test_an_error_of_ours_says_its_words_and_never_its_facts():
    error = raised(MultipleFacesError("two faces", {"boxes": [[11, 22, 33, 44]], "advice": "a canary"}))

    found = told(record(error=error))

    assert (found["code"], found["detail"]) == ("multiple_faces", "two faces")
    assert "canary" not in json.dumps(found)
    assert "boxes" not in found


def test_what_led_to_an_error_of_ours_is_named_by_class():
    error = raised(DatabaseError("the database does not answer"), raised(RuntimeError("VALUES ('a canary')")))

    [cause] = told(record(error=error))["causes"]

    assert cause.startswith(f"RuntimeError at {__file__}:")


@pytest.mark.parametrize(
    "value", [np.full(512, 0.25, np.float32), [0.25] * 512, [[0.25, 1.5]] * 5, object(), {"embedding": "0.25"}]
)
def test_numbers_of_faces_and_objects_are_not_written(value):
    assert "0.25" not in line(record(found=value))
    assert "0x" not in line(record(found=value))


def test_a_line_is_json_and_redacted_whatever_is_in_it():
    made = record(OURS, 'two\nlines "and" %s', "//user:pa\"ss'\\w@h", detail=float("nan"), key="\ud800", é="\x00")

    found = line(made)

    assert "\n" not in found
    assert json.loads(found)["message"] == 'two\nlines "and" //[redacted]@h'


def test_arguments_that_do_not_fit_are_not_printed_anywhere(capsys):
    assert "canary" not in line(record(OURS, "one %d", "a canary"))
    assert capsys.readouterr() == ("", "")


def test_the_readable_line_has_the_same_fields_on_one_line():
    formatter = LineFormatter(as_json=False, deployment="Dispatcher", replica="abc")
    with logged(job_id="gen_1", attempt=1):
        found = formatter.format(record(OURS, "job\nclaimed", detail="two words"))

    assert "\n" not in found
    assert found.startswith("WARNING ")
    assert found.endswith(r'job\nclaimed deployment=Dispatcher replica=abc job_id=gen_1 attempt=1 detail="two words"')


def test_an_exception_without_a_value_is_no_error():
    assert "error" not in told(logging.LogRecord(OURS, logging.ERROR, "", 1, "m", (), sys.exc_info()))
