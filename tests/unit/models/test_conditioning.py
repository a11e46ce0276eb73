"""What is computed from a face is remembered for its tenant alone, and not for long."""

import pytest
import torch

from instantid_serve.models.checkpoint import load_components
from instantid_serve.models.conditioning import Conditioner

AGE_S = 100.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def parts(miniature_folder):
    return load_components(miniature_folder, device="cpu", dtype=torch.float32)


@pytest.fixture
def projected(parts):
    """Grows with every face that is computed anew."""
    computed = []
    parts.image_projection.register_forward_hook(lambda *_: computed.append(1))
    return computed


@pytest.fixture
def ask(parts, clock):
    conditioner = Conditioner(parts, cache_bytes=10_000_000, face_age_s=AGE_S, timer=clock)
    face = torch.linspace(-1, 1, 512)
    picture = torch.zeros(64, 64, 3, dtype=torch.uint8)

    def once(scope="alice"):
        with torch.inference_mode():
            return conditioner.condition(["a portrait"], [face], picture, scope=scope)

    once.conditioner = conditioner
    return once


def test_a_face_is_computed_again_when_it_is_too_old(ask, clock, projected):
    ask()
    clock.now += AGE_S - 1
    ask()
    assert len(projected) == 1

    clock.now += 1
    ask()

    assert len(projected) == 2


def test_being_asked_for_does_not_make_a_face_younger(ask, clock, projected):
    for _ in range(5):
        ask()
        clock.now += AGE_S / 3

    assert len(projected) == 2


def test_an_old_face_leaves_memory_with_the_next_request_of_anyone(ask, clock):
    ask("alice")
    held = ask.conditioner._remembered
    assert sum(key[0] == "face" for key in held) == 1

    clock.now += AGE_S
    ask("bob")

    assert [key[1] for key in held if key[0] == "face"] == ["bob"]
    assert sum(key[0] == "prompt" for key in held) == 1


def test_a_face_is_found_under_its_own_tenant_alone(ask, projected):
    ask("alice")

    ask("bob")

    assert len(projected) == 2
