"""The Generator as a plain class, on the miniature."""

import asyncio

import numpy as np
import pytest

from instantid_serve.errors import EngineStoppedError, OverloadedError
from instantid_serve.messages import Progress, Request
from instantid_serve.serving.replicas.generator import Generator


@pytest.fixture
def generator(miniature_folder):
    replica = Generator({"model": {"folder": str(miniature_folder)}, "limits": {"native_side": 64}})
    yield replica
    replica._engine.close()


def request(name):
    landmarks = np.array([[22, 25], [42, 24], [32, 34], [25, 45], [40, 44]], np.float32)
    return Request(name, "a portrait", 1, 64, 64, np.ones(512, np.float32), landmarks, steps=1000)


async def test_a_generator_whose_engine_died_refuses_without_spoiling_an_attempt(generator):
    generator._engine.close()

    with pytest.raises(EngineStoppedError):
        generator.check_health()
    with pytest.raises(OverloadedError):
        await anext(generator.generate(request("late")))


async def test_leaving_the_stream_takes_the_request_out_of_the_engine(generator):
    stream = generator.generate(request("left"))
    first = await anext(stream)

    await stream.aclose()

    assert isinstance(first, Progress)
    for _ in range(500):
        if not generator._engine._tickets:
            break
        await asyncio.sleep(0.01)
    assert not generator._engine._tickets
