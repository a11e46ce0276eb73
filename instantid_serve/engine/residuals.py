"""IdentityNet's residuals for a whole batch, where it worked on some of the rows.

The others get -0.0, not 0.0: x + -0.0 is x for every x, so that adding nothing changes no bit.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def extended(residual: torch.Tensor, rows: int) -> torch.Tensor:
    """The residual of the first rows, and nothing for the rest of ``rows``."""
    # `pad` keeps the memory format: the UNet adds it to tensors of that format, and compiled code is made for one.
    return functional.pad(residual, (0,) * 7 + (rows - len(residual),), value=-0.0)


def only_where(residual: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
    """The residual of the rows whose strength is not 0, and nothing for the others."""
    return torch.where(strengths.view(-1, 1, 1, 1) != 0, residual, -0.0)
