"""Square crops of gray pictures and the histograms of their gradients: what the built-in analyser compares faces by."""

from __future__ import annotations

import typing

import cv2
import numpy as np

if typing.TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SIDE_PX = 40
CELLS = 8
DIRECTIONS = 8
LENGTH = CELLS * CELLS * DIRECTIONS

_BATCH = 64  # its planes of directions stay in the cache
_FLAT = 20.0  # gray levels of gradient energy below which a cell counts as flat and not as weak structure
_CLIP = 0.6  # no single direction may outweigh a cell's others


class Frame(typing.NamedTuple):
    """A square over a picture: its centre and side in pixels, and its turn in degrees (clockwise as seen)."""

    x: float
    y: float
    side: float
    turn: float = 0.0

    def matrix(self, side_px: int) -> NDArray[np.float64]:
        """The (2, 3) map from pixels of a crop of ``side_px`` to pixels of the picture."""
        angle, scale = np.deg2rad(self.turn), self.side / side_px
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = (np.array([self.x, self.y]) - turn @ np.full(2, (side_px - 1) / 2))[:, None]
        return np.hstack([turn, centre])

    def points(self, unit: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move (n, 2) points of the unit square (0..1) to pixels of the picture."""
        matrix = self.matrix(1)
        return (unit - 0.5) @ matrix[:, :2].T + matrix[:, 2]


def crop(gray: NDArray[np.float32], frame: Frame, side_px: int = SIDE_PX) -> NDArray[np.float32]:
    """Cut a frame out of a (H, W) picture as (side_px, side_px); what lies outside repeats the picture's edge."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (side_px, side_px)
    cut = cv2.warpAffine(gray, frame.matrix(side_px), size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.float32)


def crops(gray: NDArray[np.float32], frames: Iterable[Frame]) -> NDArray[np.float32]:
    """Cut many frames out of one picture, (n, side, side), each smoothed for its size first so that none aliases."""
    smoothed: dict[float, NDArray[np.float32]] = {}
    cut = []
    for frame in frames:
        sigma = round(max(0.3, frame.side / SIDE_PX / 2), 1)
        if sigma not in smoothed:
            smoothed[sigma] = np.asarray(cv2.GaussianBlur(gray, (0, 0), sigma), np.float32)
        cut.append(crop(smoothed[sigma], frame))
    return np.stack(cut)


def histograms(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Histograms of signed gradient directions of (n, 40, 40) crops in gray levels: (n, LENGTH).

    8 by 8 cells of 5 px, 8 directions, each cell scaled by the energy of its 3 by 3 neighbourhood, so that light and
    contrast fall out.
    """
    batches = [_histograms(squares[at : at + _BATCH]) for at in range(0, len(squares), _BATCH)]
    return np.concatenate(batches) if batches else np.zeros((0, LENGTH), np.float32)


def _histograms(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(squares, ((0, 0), (1, 1), (1, 1)), mode="edge")
    dx = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    dy = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    strength = np.hypot(dx, dy) * 4  # the scale of a 3x3 Sobel
    direction = np.arctan2(dy, dx) * (DIRECTIONS / (2 * np.pi))
    below = np.floor(direction)
    share = direction - below
    planes = np.zeros((*squares.shape, DIRECTIONS), np.float32)
    low = below.astype(np.intp) % DIRECTIONS
    np.put_along_axis(planes, low[..., None], (strength * (1 - share))[..., None], -1)
    np.put_along_axis(planes, ((low + 1) % DIRECTIONS)[..., None], (strength * share)[..., None], -1)
    cells = _pool(planes)
    around = np.pad((cells**2).sum(-1), ((0, 0), (1, 1), (1, 1)), mode="edge")
    energy = sum(around[:, y : y + CELLS, x : x + CELLS] for y in range(3) for x in range(3)) / 9
    scaled = np.minimum(cells / np.sqrt(energy + _FLAT**2)[..., None], _CLIP)
    return scaled.reshape(len(squares), -1).astype(np.float32)


def _pool(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average (n, 40, 40, k) into overlapping cells, (n, 8, 8, k): a gradient counts for the cells it lies between."""
    step = SIDE_PX // CELLS
    position = np.arange(SIDE_PX)[None, :] - (np.arange(CELLS)[:, None] * step + (step - 1) / 2)
    weight = np.exp(-(position**2) / (2 * (step / 2.2) ** 2)).astype(np.float32)
    weight /= weight.sum(1, keepdims=True)
    return np.asarray(np.einsum("nyxk,ay,bx->nabk", planes, weight, weight, optimize=True), np.float32)
