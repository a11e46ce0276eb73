"""What travels between the stages: frozen dataclasses, nothing that runs."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self

if typing.TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FaceChoice = Literal["only", "largest"] | int
Fit = Literal["crop", "pad", "stretch"]
ImageFormat = Literal["png", "jpeg", "webp"]


@dataclasses.dataclass(frozen=True, slots=True)
class GenerationSpec:
    """What a tenant asked for, fully resolved: it is stored with the job and alone decides the pictures.

    Sizes are in pixels. ``sampler`` is a name of :mod:`instantid_serve.samplers`. Picture i of ``count`` is made with
    seed ``seed + i``. ``fit`` says how the photo's face is placed on the picture when their aspect ratios differ.
    """

    prompt: str
    seed: int
    width: int
    height: int
    negative_prompt: str = ""
    count: int = 1
    fit: Fit = "crop"
    face: FaceChoice = "only"
    steps: int = 30
    guidance_scale: float = 5.0
    sampler: str = "euler"
    identity_strength: float = 0.8
    identitynet_strength: float = 0.8
    identitynet_start: float = 0.0
    identitynet_end: float = 1.0
    output_format: ImageFormat = "png"
    quality: int = 95

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the job's row."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The spec that :meth:`to_json` wrote; unknown keys raise TypeError."""
        return cls(**values)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class FaceFeatures:
    """One face as the analysers return it. Biometric data: it is never stored and never logged.

    ``embedding``: (512,) float32, raw (not normalised), as InstantID was trained on.
    ``landmarks``: (5, 2) float32 pixels: eye at image-left, eye at image-right, nose tip, mouth corner at image-left,
    mouth corner at image-right. ``box``: x1, y1, x2, y2 in pixels, not clipped to the image. ``score``: 0..1.
    """

    embedding: NDArray[np.float32] = dataclasses.field(repr=False)
    landmarks: NDArray[np.float32] = dataclasses.field(repr=False)
    box: tuple[float, float, float, float]
    score: float

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One picture for the engine to denoise. Everything that makes it, and nothing about who asked.

    ``landmarks`` are pixels of the picture (not of the photo). ``sampler`` is a diffusers scheduler class name and
    ``sampler_options`` what is changed of its configuration. ``guidance_scale`` <= 1 means no classifier-free guidance.
    ``identitynet_start`` and ``identitynet_end`` are fractions of the steps. ``deadline_s`` is on the engine's clock
    (``time.monotonic``); None means none.
    """

    id: str
    prompt: str
    seed: int
    width: int
    height: int
    embedding: NDArray[np.float32] = dataclasses.field(repr=False)
    landmarks: NDArray[np.float32] = dataclasses.field(repr=False)
    negative_prompt: str = ""
    steps: int = 30
    guidance_scale: float = 5.0
    sampler: str = "EulerDiscreteScheduler"
    sampler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    identity_strength: float = 0.8
    identitynet_strength: float = 0.8
    identitynet_start: float = 0.0
    identitynet_end: float = 1.0
    deadline_s: float | None = None

    @property
    def rows(self) -> int:
        """UNet rows it brings to a batch: the conditional and, with guidance, the unconditional branch."""
        return 2 if self.guidance_scale > 1.0 else 1


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """Step ``step`` of ``steps`` is done; it ran in a batch of ``batch_rows`` rows."""

    step: int
    steps: int
    batch_rows: int


@dataclasses.dataclass(frozen=True, slots=True)
class PictureStats:
    """How one picture was made: seconds per part, and the largest batch it shared (rows of all requests together)."""

    waiting_s: float
    prepare_s: float
    denoise_s: float
    decode_s: float
    steps: int
    mean_batch_rows: float
    max_batch_rows: int
    moves: int = 0  # times it went on in another engine; its seconds before that are not counted


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A request between two steps: with its Request, all that another engine needs to go on with the same bits.

    ``step``: steps done. ``latents``: (1, channels, h, w) float32. ``sampler``: what changed on the sampler since its
    timesteps were set, as numbers, arrays and lists. ``noise``: the state of the request's random generator. The rest
    is statistics. A few hundred kilobytes at 1024 pixels.
    """

    step: int
    latents: NDArray[np.float32] = dataclasses.field(repr=False)
    sampler: Mapping[str, Any] = dataclasses.field(repr=False)
    noise: NDArray[np.uint8] = dataclasses.field(repr=False)
    row_steps: int = 0
    max_batch_rows: int = 0
    moves: int = 0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A finished picture: (H, W, 3) uint8 RGB, and how it was made."""

    pixels: NDArray[np.uint8] = dataclasses.field(repr=False)
    stats: PictureStats


@dataclasses.dataclass(frozen=True, slots=True)
class StoredImage:
    """A published result: where it lies in the result store and what it is."""

    key: str
    media_type: str
    size_bytes: int
    sha256: str
    width: int
    height: int
    seed: int
    stats: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the job's row."""
        return dataclasses.asdict(self)
