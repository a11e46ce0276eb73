"""What a forward pass reads: each row its own request's inputs, copied only when its row takes a seat."""

import dataclasses

import pytest
import torch

from instantid_serve.engine.buffers import Buffers, Numbers

SHAPE = (4, 2, 2)


@dataclasses.dataclass
class Member:
    serial: int
    rows: int
    conditioning: dict
    latents: torch.Tensor


def member(serial, *, rows=2, tokens=3):
    value = float(serial)
    conditioning = {
        "text": torch.full((rows, tokens, 5), value),
        "pooled": torch.arange(rows, dtype=torch.float32).add(value).unsqueeze(1),
        "hint": torch.full((1, 2), value),  # one for all its rows
    }
    return Member(serial, rows, conditioning, torch.full((1, *SHAPE), value))


def gather(buffers, members, *, strengths=None, padded_rows=None):
    numbers = [
        Numbers(10.0 * m.serial, 0.5, s) for m, s in zip(members, strengths or [1.0] * len(members), strict=True)
    ]
    rows = padded_rows or sum(m.rows for m in members)
    return buffers.gather(members, [m.latents for m in members], numbers, padded_rows=rows)


@pytest.fixture
def buffers():
    return Buffers(8, SHAPE, torch.device("cpu"))


def test_every_row_has_its_requests_inputs(buffers):
    batch = gather(buffers, [member(1), member(2, rows=1)])

    assert batch.timesteps.tolist() == [10.0, 10.0, 20.0]
    assert batch.latents[:, 0, 0, 0].tolist() == [1.0, 1.0, 2.0]
    assert batch.conditioning["hint"][:, 0].tolist() == [1.0, 1.0, 2.0]
    assert batch.conditioning["pooled"][:, 0].tolist() == [1.0, 2.0, 2.0]


def test_outputs_come_back_in_the_members_order_wherever_their_rows_sit(buffers):
    one, two, three = member(1), member(2), member(3, rows=1)
    gather(buffers, [one, two, three])

    batch = gather(buffers, [three, one, two], strengths=[0.0, 0.0, 0.8])
    unconditional, conditional = buffers.scatter(batch.conditioning["pooled"])

    assert batch.working == 2
    assert unconditional[:, 0].tolist() == [3.0, 1.0, 2.0]
    assert conditional[:, 0].tolist() == [3.0, 2.0, 3.0]


def test_shorter_texts_are_masked(buffers):
    batch = gather(buffers, [member(1, rows=1, tokens=2), member(2, rows=1, tokens=4)])

    assert batch.text_mask.tolist() == [[True, True, False, False], [True] * 4]
    assert gather(buffers, [member(3, rows=1, tokens=4)]).text_mask is None


def test_they_grow_when_a_batch_needs_more(buffers):
    batch = gather(buffers, [member(n) for n in range(1, 7)])

    assert batch.timesteps.tolist() == [10.0 * n for n in range(1, 7) for _ in range(2)]


def test_padding_rows_ask_for_nothing(buffers):
    batch = gather(buffers, [member(1)], padded_rows=4)

    assert batch.identity_strengths.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert batch.working == 2


def test_a_row_whose_copy_failed_is_copied_again(buffers):
    gather(buffers, [member(1)])
    good, odd = member(2), member(3)
    odd.conditioning["hint"] = torch.zeros(1, 99)
    with pytest.raises(RuntimeError):
        gather(buffers, [odd, good])

    odd.conditioning["hint"] = torch.full((1, 2), 3.0)
    batch = gather(buffers, [odd, good])

    assert batch.conditioning["hint"][:, 0].tolist() == [3.0, 3.0, 2.0, 2.0]
