"""Where a face's landmarks belong, and how a face is brought there."""

from __future__ import annotations

import typing

import cv2
import numpy as np
from skimage.transform import SimilarityTransform

if typing.TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNED_SIDE_PX = 112
# ArcFace's template for an aligned face of 112 px (instantid-contract, section 1a), in the order of FaceFeatures.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)


def align(photo: NDArray[np.uint8], landmarks: NDArray[np.float32], side: int = ALIGNED_SIDE_PX) -> NDArray[np.uint8]:
    """Turn, scale and shift a face so that its landmarks lie as nearly as they can on the template.

    Returns (side, side, channels); what lies outside the photo is black. Raises ValueError if the landmarks are
    degenerate. Least squares over similarities, as InsightFace's ``norm_crop`` does.
    """
    movement = SimilarityTransform.from_estimate(landmarks, TEMPLATE * (side / ALIGNED_SIDE_PX))
    if not movement or not np.isfinite(movement.params).all():
        raise ValueError("the landmarks of this face fall on one point")
    warped: NDArray[np.uint8] = cv2.warpAffine(photo, movement.params[:2], (side, side), borderValue=0.0)
    return warped
