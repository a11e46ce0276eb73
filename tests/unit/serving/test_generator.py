"""The Generator as a plain class, on the miniature."""

import asyncio

import numpy as np
import pytest

from instantid_serve.errors import EngineStoppedError, OverloadedError
from instantid_serve.messages import Progress, Request
from instantid_serve.service.generation import Finished
from instantid_serve.serving.replicas.generator import Generator


@pytest.fixture
def generators(miniature_folder):
    """A function that starts another replica."""
    replicas = []

    def started():
        replicas.append(
            Generator(
                {
                    "model": {"folder": str(miniature_folder)},
                    "limits": {"native_side": 64},
                    "engine": {"calibrate": False},
                }
            )
        )
        return replicas[-1]

    yield started
    for replica in replicas:
        replica.__del__()


@pytest.fixture
def generator(generators):
    return generators()


def request(name, steps=1000):
    landmarks = np.array([[22, 25], [42, 24], [32, 34], [25, 45], [40, 44]], np.float32)
    return Request(name, "a portrait", 1, 64, 64, np.ones(512, np.float32), landmarks, steps=steps)


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


async def test_a_picture_that_moves_to_another_generator_is_the_same_and_takes_no_step_twice(generators):
    short = request("moved", steps=60)
    one, other = generators(), generators()
    stats, undisturbed = [message async for message in other.generate(short)][-2:]

    before = []
    async for message in one.generate(short):
        before.append(message)
        one._engine.hand_over()
    after = [message async for message in other.generate(short, before[-1].checkpoint)]

    moved_at = before[-1].checkpoint.step
    assert 0 < moved_at < 60
    assert min(message.step for message in after if isinstance(message, Progress)) > moved_at
    assert after[-2].stats.moves == stats.stats.moves + 1 == 1
    np.testing.assert_array_equal(after[-1], undisturbed)


async def test_a_generator_that_is_being_stopped_refuses_and_gives_no_checkpoint(generator):
    generator._engine.hand_over()

    (message,) = [message async for message in generator.generate(request("late"))]

    assert message.checkpoint is None


async def test_the_pixels_follow_the_message_that_the_picture_is_finished(generator):
    *_, finished, pixels = [message async for message in generator.generate(request("r", steps=1))]

    assert isinstance(finished, Finished)
    assert finished.pixels is None
    assert pixels.shape == (64, 64, 3)


async def test_progress_is_told_at_once_and_then_only_now_and_then(generator):
    generator.progress_every_s = 3600.0

    messages = [message async for message in generator.generate(request("r", steps=20))]

    assert sum(isinstance(message, Progress) for message in messages) == 1
