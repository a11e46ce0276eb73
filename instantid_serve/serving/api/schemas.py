"""A generation as callers ask for it: its parameters, with the server's limits, and what they come to."""

from __future__ import annotations

import dataclasses
import secrets
import unicodedata
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model, field_validator, model_validator

from instantid_serve import samplers, sizing
from instantid_serve.errors import UnknownModelError
from instantid_serve.messages import Fit, GenerationSpec, ImageFormat
from instantid_serve.serving.api.job_fields import JobFields, no_nul
from instantid_serve.settings import LimitSettings

MAX_SEED = 2**32 - 1  # exact in every JSON reader, and what other services take
MAX_STRENGTH = 1.5  # the range of upstream's demo; above it faces burn out
MAX_GUIDANCE = 30.0

_DEFAULT = GenerationSpec(prompt="", seed=0, width=0, height=0)
_Strength = Annotated[float, Field(ge=0, le=MAX_STRENGTH)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Invisible = ("Z", "C")  # Unicode categories: separators, and control, format and unassigned characters


# What the caller may leave open is decided by :func:`resolve`.
_TAKEN_OVER = {field.name for field in dataclasses.fields(GenerationSpec)} - {"width", "height", "seed"}


class PictureFields(BaseModel):
    """What may be asked of the pictures. :func:`fields_model` adds the server's own limits."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prompt: str
    negative_prompt: str = _DEFAULT.negative_prompt
    model: str | None = Field(None, description="The preset to use; omitted: the one that is served.")
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        None, description="Picture i is made with seed + i. Omitted: a random one, returned with the job."
    )
    width: int | None = Field(None, description="Pixels, a multiple of 8. Omitted with height: chosen from the photo.")
    height: int | None = Field(None, description="Pixels, a multiple of 8.")
    count: int = _DEFAULT.count
    fit: Fit = Field(_DEFAULT.fit, description="How the photo is laid on a picture of another shape.")
    face: Literal["only", "largest"] | Annotated[int, Field(ge=0, le=999)] = Field(
        _DEFAULT.face, description="Which face: the only one, the largest, or an index into the faces, largest first."
    )
    steps: int = _DEFAULT.steps
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE)] = _DEFAULT.guidance_scale
    sampler: Annotated[str, StringConstraints(max_length=64)] = _DEFAULT.sampler
    identity_strength: _Strength = _DEFAULT.identity_strength
    identitynet_strength: _Strength = _DEFAULT.identitynet_strength
    identitynet_start: _Fraction = _DEFAULT.identitynet_start
    identitynet_end: _Fraction = _DEFAULT.identitynet_end
    output_format: ImageFormat = _DEFAULT.output_format
    quality: Annotated[int, Field(ge=1, le=100)] = _DEFAULT.quality
    exact: bool = Field(
        _DEFAULT.exact,
        description="The same request gives the same bits, whoever shares its batches (on the same kind of machine).",
    )

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if all(unicodedata.category(character)[0] in _Invisible for character in prompt):
            raise ValueError("the prompt has no visible character")
        return prompt

    @field_validator("prompt", "negative_prompt", "sampler", "model")
    @classmethod
    def _no_nul(cls, text: str | None) -> str | None:
        return text if text is None else no_nul(text)

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("give both width and height, or neither")
        if self.identitynet_start > self.identitynet_end:
            raise ValueError("identitynet_start must not be after identitynet_end")
        return self


class GenerationFields(PictureFields, JobFields):
    """All that may be asked of a generation, beside the photo."""


def fields_model(limits: LimitSettings) -> type[GenerationFields]:
    """The fields with this server's limits, so that OpenAPI states them."""
    prompt = Annotated[str, StringConstraints(max_length=limits.max_prompt_chars)]
    return create_model(
        "GenerationParameters",
        __base__=GenerationFields,
        prompt=(prompt, ...),
        negative_prompt=(prompt, _DEFAULT.negative_prompt),
        count=(Annotated[int, Field(ge=1, le=limits.max_count)], _DEFAULT.count),
        steps=(Annotated[int, Field(ge=1, le=limits.max_steps)], min(_DEFAULT.steps, limits.max_steps)),
    )


def resolve(
    fields: GenerationFields, photo_size: tuple[int, int], limits: LimitSettings, preset: str
) -> GenerationSpec:
    """Everything decided: the spec that alone makes the pictures. ``photo_size``: width, height of the upright photo.

    Raises InvalidRequestError for a size or sampler that is not served, UnknownModelError for another model.
    """
    if fields.model not in (None, preset):
        raise UnknownModelError("that model is not served here", {"served": [preset]})
    samplers.resolve(fields.sampler)
    width, height = _size(fields, photo_size, limits)
    values = fields.model_dump(include=_TAKEN_OVER)
    seed = secrets.randbelow(MAX_SEED + 1) if fields.seed is None else fields.seed
    return GenerationSpec(**values, seed=seed, width=width, height=height)


def _size(fields: GenerationFields, photo_size: tuple[int, int], limits: LimitSettings) -> tuple[int, int]:
    if fields.width is None or fields.height is None:
        width, height = sizing.default_size(photo_size, limits.native_side)
    else:
        width, height = fields.width, fields.height
    sizing.check_size(width, height, min_side=limits.min_side, max_side=limits.max_side, max_pixels=limits.max_pixels)
    return width, height
