"""Rows without IdentityNet get a residual that changes no bit, in the layout of the others."""

import pytest
import torch

from instantid_serve.engine.residuals import extended, only_where


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_extended_residual_keeps_its_layout_and_adds_nothing(dtype, layout):
    residual = torch.randn(2, 8, 4, 4).to(dtype).to(memory_format=layout)

    whole = extended(residual, 5)

    assert torch.equal(whole[:2], residual)
    assert whole.is_contiguous(memory_format=layout)
    assert torch.signbit(whole[2:] + torch.tensor(-0.0, dtype=dtype)).all()


def test_rows_of_no_strength_add_nothing_whatever_the_network_said():
    residual = torch.full((2, 1, 1, 1), torch.nan)
    residual[0] = 3.0

    kept = only_where(residual, torch.tensor([0.5, 0.0]))

    assert kept.flatten().tolist() == [3.0, 0.0]
    assert torch.signbit(kept[1]).all()
