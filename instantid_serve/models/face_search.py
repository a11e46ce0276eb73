"""Find frontal faces without weights: scikit-image's bundled cascade proposes, a linear judge disposes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import typing

import cv2
import numpy as np
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade

from instantid_serve.models.face_likeness import likeness
from instantid_serve.models.face_points import eye_contrast
from instantid_serve.models.gradients import Frame, crop, crops

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_WINDOW_PX = 24  # the cascade's own window
_SCALE_STEP = 1.1
_MERGE_NOTHING = 0.999  # the cascade's own grouping hides how often it fired, which tells faces from accidents
_OUTSHONE = 0.6  # evidence by which a find may fall behind the surest
_TINT_POINTS = np.array([[0.34, 0.5], [0.66, 0.5], [0.5, 0.45], [0.5, 0.55], [0.5, 0.85]])  # of the frame
_TINT_PX = 24
_TINT_SPREAD = 0.8  # of (red - blue) / their mean; 0.2 in a face, 0.4 where it is overexposed
_TRIED = 6  # clusters that are worth a closer judgement

_SHIFTS = (-0.16, -0.08, 0.0, 0.08, 0.16)
_SCALES = (0.75, 0.85, 0.95, 1.05, 1.18, 1.32)
_TURNS = (-16.0, -8.0, 0.0, 8.0, 16.0)
_FINE_SHIFTS = (-0.04, 0.0, 0.04)
_FINE_SCALES = (0.93, 1.0, 1.08)


class Look(typing.NamedTuple):
    """One way to look at a photo: at what size, for windows from and to what size, with what border, how doubtfully."""

    long_side_px: int
    windows_px: tuple[int, int]
    border: float  # added all around, as a fraction of the long side
    doubt: float  # the sum of evidence that an accident reaches as often as a face; found over pictures without one


# Each look is taken only if those before it found nothing. A face is seldom under a tenth of a photo; the second look
# is for those that are, and sees more accidents; the third is for close-ups, whose cheeks and brow the cascade misses.
_LOOKS = (Look(320, (24, 320), 0.0, 1.5), Look(512, (24, 44), 0.0, 1.75), Look(224, (56, 224), 0.3, 1.5))


@dataclasses.dataclass(frozen=True, slots=True)
class Find:
    """A face: the frame it fills from brow to chin, in pixels of the photo, and the evidence for it.

    Evidence is about normal: at 0 a find is as likely an accident as a face.
    """

    frame: Frame
    evidence: float

    @property
    def score(self) -> float:
        """How sure the find is: 0..1."""
        return 1 / (1 + math.exp(-4 * self.evidence))

    def covers(self, other: Find) -> bool:
        """Whether the other's middle lies within this face."""
        a, b = self.frame, other.frame
        return max(abs(a.x - b.x), abs(a.y - b.y)) < max(a.side, b.side) / 2


def search(photo: NDArray[np.uint8], threshold: float) -> list[Find]:
    """Find the frontal faces in a (H, W, 3) RGB photo whose score reaches ``threshold``, surest first.

    Faces under about 4 % of the photo's long side, in profile, or turned by more than about 20 degrees are not found.
    """
    gray = np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), np.uint8)
    for look in _LOOKS:
        finds = [find for find in _take(look, gray, threshold) if _has_one_tint(photo, find.frame)]
        if finds:
            return _plausible(finds)
    return []


def _take(look: Look, gray: NDArray[np.uint8], threshold: float) -> list[Find]:
    border = round(max(gray.shape) * look.border)
    scale = max(1.0, (max(gray.shape) + 2 * border) / look.long_side_px)
    small = cv2.resize(gray, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
    margin = round(border / scale)
    small = np.pad(small, margin, mode="edge")
    finds = _judged(small.astype(np.float32), _cluster(_propose(small, *look.windows_px)), look.doubt)
    return [
        dataclasses.replace(find, frame=_enlarged(find.frame, scale, margin))
        for find in finds
        if find.score >= threshold
    ]


def _enlarged(frame: Frame, scale: float, margin: int) -> Frame:
    x, y = (float((at - margin + 0.5) * scale - 0.5) for at in (frame.x, frame.y))
    return Frame(x, y, float(frame.side * scale), float(frame.turn))


def _has_one_tint(photo: NDArray[np.uint8], frame: Frame) -> bool:
    """Whether cheeks, nose and chin share a tint, whichever it is: an emblem on a suit seldom does."""
    face = np.stack([crop(np.ascontiguousarray(photo[..., at], np.float32), frame, _TINT_PX) for at in (0, 2)])
    red, blue = cv2.GaussianBlur(face.transpose(1, 2, 0), (0, 0), 1).transpose(2, 0, 1)
    columns, rows = (_TINT_POINTS * _TINT_PX).astype(int).T
    tints = (red - blue)[rows, columns] / (red + blue + 16)[rows, columns] * 2
    return bool(np.ptp(tints) < _TINT_SPREAD)


@functools.cache
def _cascade() -> Cascade:
    return Cascade(lbp_frontal_face_cascade_filename())


def _propose(small: NDArray[np.uint8], smallest_px: int, largest_px: int) -> list[Frame]:
    if min(small.shape) <= _WINDOW_PX:
        return []
    windows = _cascade().detect_multi_scale(
        img=small,
        scale_factor=_SCALE_STEP,
        step_ratio=1,
        min_size=(smallest_px, smallest_px),
        max_size=(largest_px, largest_px),
        min_neighbor_number=1,
        intersection_score_threshold=_MERGE_NOTHING,
    )
    return [Frame(w["c"] + w["width"] / 2, w["r"] + w["height"] / 2, w["width"]) for w in windows]


def _cluster(windows: Sequence[Frame]) -> list[list[Frame]]:
    clusters: list[list[Frame]] = []
    for window in sorted(windows, key=lambda frame: -frame.side):
        for cluster in clusters:
            x, y, side, _ = np.mean(cluster, axis=0)
            near = max(abs(window.x - x), abs(window.y - y)) < side / 4
            if near and window.side > side * 0.6:
                cluster.append(window)
                break
        else:
            clusters.append([window])
    return clusters


def _judged(small: NDArray[np.float32], clusters: Sequence[Sequence[Frame]], doubt: float) -> list[Find]:
    """Move each cluster to where it is most like a face, and score it.

    The cascade fires once or twice on an accident and many times on a face, so each doubling of its hits makes up for
    some likeness.
    """
    hits = [0.3 * float(np.log2(len(cluster))) for cluster in clusters]
    middles = [Frame(*np.mean(cluster, axis=0)) for cluster in clusters]
    rough = [_best(small, _around(middle, (0.0,), _SCALES, (0.0,)))[1] for middle in middles]
    finds = []
    for at in sorted(range(len(clusters)), key=lambda at: -rough[at] - hits[at])[:_TRIED]:
        best, _ = _best(small, _around(middles[at], _SHIFTS, _SCALES, (0.0,)))
        best, like = _best(small, _around(best, _FINE_SHIFTS, _FINE_SCALES, _TURNS))
        eyes = min(max(0.5 * (eye_contrast(small, best) - 1.3), -0.6), 0.6)
        finds.append(Find(best, like + hits[at] + eyes - doubt))
    return finds


def _around(frame: Frame, shifts: Sequence[float], scales: Sequence[float], turns: Sequence[float]) -> list[Frame]:
    return [
        Frame(frame.x + dx * frame.side, frame.y + dy * frame.side, frame.side * scale, frame.turn + turn)
        for dx, dy, scale, turn in itertools.product(shifts, shifts, scales, turns)
    ]


def _best(small: NDArray[np.float32], frames: Sequence[Frame]) -> tuple[Frame, float]:
    scores = likeness(crops(small, frames))
    best = int(scores.argmax())
    return frames[best], float(scores[best])


def _plausible(finds: Sequence[Find]) -> list[Find]:
    """Drop what lies on a surer face, and what is so much less sure than the surest that it is likely an accident."""
    kept: list[Find] = []
    for find in sorted(finds, key=lambda find: -find.evidence):
        if not any(find.covers(other) or find.evidence < other.evidence - _OUTSHONE for other in kept):
            kept.append(find)
    return kept
