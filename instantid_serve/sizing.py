"""How large a picture is, and where the photo's face lands on it. Nothing is ever distorted unless asked for.

Upstream InstantID resizes every photo so that its long side is 1280 px and both sides are multiples of 64, which bends
the aspect ratio and renders a square selfie at 1280x1280. Here the size is a parameter; when it is left out, the same
rule chooses it with the model's native side (1024 for SDXL), and the photo is cropped to it instead of bent.
"""

from __future__ import annotations

import dataclasses
import typing

from instantid_serve.errors import InvalidRequestError

if typing.TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from instantid_serve.messages import Fit

LATENT_GRID_PX = 8  # one latent pixel of the SDXL VAE
UPSTREAM_GRID_PX = 64  # `base_pixel_number` of upstream's resize_img
UPSTREAM_MIN_SIDE_PX = 1024  # its `min_side`


def default_size(photo_size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return (width, height) that upstream's ``resize_img`` gives a photo of that size: its long side is ``max_side``.

    It scales the short side to 1024, then the long side to ``max_side``, rounds both times and floors to multiples of
    64 (instantid-contract, sizes). The first scale cancels out, but its rounding can move a side by one multiple. A
    side under 64, which upstream makes 0, is 64 here.
    """
    scaled = [round(side * (UPSTREAM_MIN_SIDE_PX / min(photo_size))) for side in photo_size]
    ratio = max_side / max(scaled)
    width, height = (max(UPSTREAM_GRID_PX, round(ratio * s) // UPSTREAM_GRID_PX * UPSTREAM_GRID_PX) for s in scaled)
    return width, height


def check_size(width: int, height: int, *, min_side: int, max_side: int, max_pixels: int) -> None:
    """Raise InvalidRequestError unless the size is on the 8 px grid and within the limits (pixels)."""
    for name, side in (("width", width), ("height", height)):
        if side % LATENT_GRID_PX:
            raise InvalidRequestError(
                f"{name} must be a multiple of {LATENT_GRID_PX}", {"parameter": name, "grid_px": LATENT_GRID_PX}
            )
        if not min_side <= side <= max_side:
            raise InvalidRequestError(
                f"{name} must be from {min_side} to {max_side}",
                {"parameter": name, "minimum": min_side, "maximum": max_side},
            )
    if width * height > max_pixels:
        raise InvalidRequestError(
            f"width x height must be at most {max_pixels} pixels", {"parameter": "width", "max_pixels": max_pixels}
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where a photo lies on the picture: picture = photo * scale + offset, per axis, in pixels."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def apply(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move (n, 2) points from photo pixels to picture pixels."""
        moved = points.copy()
        moved[:, 0] = points[:, 0] * self.scale_x + self.offset_x
        moved[:, 1] = points[:, 1] * self.scale_y + self.offset_y
        return moved


def place(
    photo_size: tuple[int, int],
    picture_size: tuple[int, int],
    fit: Fit,
    box: tuple[float, float, float, float],
) -> Placement:
    """Place a photo on a picture (sizes are width, height).

    ``crop`` covers the picture and keeps the face ``box`` (photo pixels) as central as the photo's edges allow;
    ``pad`` shows the whole photo, centred; ``stretch`` bends it, as upstream's explicit ``size=`` does.
    """
    sx, sy = picture_size[0] / photo_size[0], picture_size[1] / photo_size[1]
    if fit == "stretch":
        return Placement(sx, sy, 0.0, 0.0)
    scale = max(sx, sy) if fit == "crop" else min(sx, sy)
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    offsets = []
    for photo, picture, middle in zip(photo_size, picture_size, centre, strict=True):
        slack = picture - photo * scale  # <= 0 when cropping, >= 0 when padding
        wanted = picture / 2 - middle * scale if fit == "crop" else slack / 2
        offsets.append(min(max(wanted, min(slack, 0.0)), max(slack, 0.0)))
    return Placement(scale, scale, *offsets)
