"""What OpenAPI says of generations and batches is what they take and answer."""

import pytest

METHODS = {"get", "post", "delete"}


@pytest.fixture
async def document(anyone):
    return (await anyone.get("/openapi.json")).json()


@pytest.fixture
def operations(document):
    mine = ("/v1/generations", "/v1/batches")
    return {
        f"{method} {path}": operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if path.startswith(mine)
    }


def headers_of(operation):
    return {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}


async def test_every_parameter_and_operation_is_described(operations):
    for name, operation in operations.items():
        assert operation["description"], name
        assert all(parameter.get("description") for parameter in operation.get("parameters", [])), name


async def test_headers_are_described_where_they_are_read(operations):
    assert headers_of(operations["post /v1/generations"]) == {"Prefer", "Cancel-After", "Idempotency-Key"}
    assert headers_of(operations["post /v1/batches"]) == {"Cancel-After", "Idempotency-Key"}
    assert headers_of(operations["get /v1/generations/{job_id}/events"]) == {"Last-Event-ID"}


async def test_a_batchs_items_are_generations_without_a_priority(operations):
    one = operations["post /v1/generations"]["requestBody"]["content"]["application/json"]["schema"]
    batch = operations["post /v1/batches"]["requestBody"]["content"]["application/json"]["schema"]["properties"]

    assert batch["defaults"]["properties"].keys() == one["properties"].keys()
    assert batch["items"]["items"]["properties"].keys() == one["properties"].keys() - {"priority"}


@pytest.mark.parametrize("name", ["GenerationChange", "GenerationProgress"])
async def test_the_data_of_events_are_described(document, name):
    schema = document["components"]["schemas"][name]

    refs = [part["$ref"] for part in schema["properties"].values() if "$ref" in part]
    assert schema["properties"]
    assert all(ref.rpartition("/")[2] in document["components"]["schemas"] for ref in refs)
