"""What the scheduler knows of a request: plain numbers, no tensors."""

from __future__ import annotations

import dataclasses

import numpy as np

from instantid_serve.messages import Request

# Eyes, nose and mouth corners of nobody in particular, as fractions of the picture's sides.
_LANDMARKS = np.array([(0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.4, 0.7), (0.6, 0.7)], np.float32)


@dataclasses.dataclass(frozen=True, slots=True)
class ShapeKey:
    """Requests of one key may share a step: latent height and width, and the set of weights in use.

    With ``exact_rows`` it is the fixed-bucket tier: every forward pass has exactly so many rows and ``text_tokens``
    tokens of text, whoever is in it, so that a request's result is the same to the bit in any company.
    """

    latent_height: int
    latent_width: int
    weights: str = "base"
    exact_rows: int = 0
    text_tokens: int = 0


@dataclasses.dataclass(slots=True, eq=False)
class Entry:
    """A prepared request among the others. ``arrived_s`` is on the engine's clock."""

    request: Request
    key: ShapeKey
    steps: int
    arrived_s: float
    steps_done: int = 0

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def rows(self) -> int:
        return self.request.rows

    @property
    def remaining(self) -> int:
        """Steps still to run."""
        return self.steps - self.steps_done


@dataclasses.dataclass(frozen=True, slots=True)
class StepReport:
    """What one step was: its shape, how many requests and rows shared it, and how long it took (seconds)."""

    key: ShapeKey
    requests: int
    rows: int
    seconds: float


def stand_in(name: str, width: int, height: int, *, steps: int, guided: bool = True) -> Request:
    """A request that asks for a picture of nobody, for what must be measured or warmed up."""
    face = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    landmarks = _LANDMARKS * np.array([width, height], np.float32)
    guidance = 5.0 if guided else 1.0
    return Request(name, "warm up", 0, width, height, face, landmarks, steps=steps, guidance_scale=guidance)
