"""What tests need beside this repository, and what becomes of them where it is missing (a pytest plugin).

They are skipped, unless ``TESTS_REQUIRE`` names the part: CI sets it, so that nothing is left out there unnoticed.
"""

import os

import pytest

PARTS = {"postgres", "redis", "s3"}


def required():
    """The parts that ``TESTS_REQUIRE`` names, with commas between them."""
    return {part.strip() for part in os.environ.get("TESTS_REQUIRE", "").split(",")} - {""}


def missing(part, reason):
    """Skip the test that asked for the part, or fail it where the part is required."""
    if part in required():
        pytest.fail(f"TESTS_REQUIRE names {part}: {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_configure():
    if unknown := required() - PARTS:
        raise pytest.UsageError(f"TESTS_REQUIRE names {sorted(unknown)}; there are only {sorted(PARTS)}")
