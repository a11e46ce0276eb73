"""The real analyser: antelopev2's detector and recogniser, through InsightFace and ONNX Runtime.

InsightFace is never asked to find a model by name: its model zoo would fetch what is missing. Sessions are made here
from two files, and its SCRFD and ArcFace classes run them.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import typing

import cv2
import numpy as np

from instantid_serve.errors import ConfigurationError, WeightsError
from instantid_serve.messages import FaceFeatures
from instantid_serve.models.alignment import align

if typing.TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

DETECTOR = "scrfd_10g_bnkps.onnx"
RECOGNISER = "glintr100.onnx"
# 640 is what InstantID's scripts detect at. A face that fills the photo is larger than what the detector knows at 640;
# in a smaller copy it is found (instantid-contract, section 1a).
DETECTION_SIZES = (640, 512, 384, 256, 192, 128)
_INSTALL = {
    "insightface": "pip install --no-deps insightface==2.1",
    "onnxruntime": "pip install onnxruntime (for a GPU: onnxruntime-gpu, and not both)",
}


class InsightFaceAnalyzer:
    """Finds faces with SCRFD and describes them with ArcFace's raw embedding.

    ``folder`` holds antelopev2's two files. ``providers`` are ONNX Runtime's, best first; the first must be the one
    that is used, or the analyser refuses to start. ``threads`` run one operation. One photo is analysed at a time:
    several threads may call, and wait for each other.

    Raises ConfigurationError: a package or the wanted provider is missing. WeightsError: a file is missing or is not
    what its name says.
    """

    def __init__(
        self, folder: Path, providers: Sequence[str], threads: int = 1, detection_threshold: float = 0.5
    ) -> None:
        zoo = _import("insightface.model_zoo")
        detector = _session(folder / DETECTOR, providers, threads)
        recogniser = _session(folder / RECOGNISER, providers, threads)
        _check_signatures(folder, detector, recogniser)
        # One session serves all sizes; InsightFace would otherwise build one more for each.
        self._detector = zoo.SCRFD(str(folder / DETECTOR), detector, static_shape_sessions=False)
        self._recogniser = zoo.ArcFaceONNX(str(folder / RECOGNISER), recogniser)
        self._threshold = detection_threshold
        self._one_at_a_time = threading.Lock()

    def find(self, photo: NDArray[np.uint8]) -> list[FaceFeatures]:
        """Return all faces in a (H, W, 3) RGB photo, largest first."""
        bgr = cv2.cvtColor(photo, cv2.COLOR_RGB2BGR)
        with self._one_at_a_time:
            faces = [self._describe(bgr, box, landmarks) for box, landmarks in self._detect(bgr)]
        return sorted(faces, key=lambda face: -face.area)

    def _detect(self, bgr: NDArray[np.uint8]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        for side in DETECTION_SIZES:
            boxes, landmarks = self._detector.detect(bgr, input_size=(side, side), det_thresh=self._threshold)
            if len(boxes):
                return list(zip(boxes, landmarks, strict=True))
        return []

    def _describe(
        self, bgr: NDArray[np.uint8], box: NDArray[np.float32], landmarks: NDArray[np.float32]
    ) -> FaceFeatures:
        landmarks = landmarks.astype(np.float32)
        # Its own alignment calls a function that scikit-image has deprecated; ours is the same least squares.
        embedding = self._recogniser.get_feat(align(bgr, landmarks)).flatten().astype(np.float32)
        x1, y1, x2, y2, score = box.tolist()
        return FaceFeatures(embedding, landmarks, (x1, y1, x2, y2), score)


def _import(module: str) -> ModuleType:
    # Looked for first, as InsightFace names only itself when ONNX Runtime is missing.
    for package, command in _INSTALL.items():
        if importlib.util.find_spec(package) is None:
            raise ConfigurationError(
                f"faces.analyzer is insightface, but {package} is not installed: {command}", {"key": "faces.analyzer"}
            )
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"faces.analyzer is insightface, but {module} cannot be imported: {error}", {"key": "faces.analyzer"}
        ) from error


def _session(file: Path, providers: Sequence[str], threads: int) -> typing.Any:  # noqa: ANN401 - onnxruntime is untyped
    onnxruntime = _import("onnxruntime")
    _check_providers(providers, onnxruntime.get_available_providers())
    if not file.is_file():
        raise WeightsError(f"{file} is missing", {"file": file.name})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle replicas share their cores
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=list(providers))
    except Exception as error:  # its exceptions have no common base but this
        raise WeightsError(f"{file} cannot be loaded as a model", {"file": file.name}) from error
    # ONNX Runtime takes the next provider without a word when the first fails to load its libraries.
    _check_providers(providers, session.get_providers())
    return session


def _check_providers(wanted: Sequence[str], usable: Sequence[str]) -> None:
    if not wanted or wanted[0] not in usable:
        package = "onnxruntime" if list(wanted[:1]) == ["CPUExecutionProvider"] else "onnxruntime-gpu"
        raise ConfigurationError(
            f"faces.providers asks for {wanted[0] if wanted else 'none'}, but ONNX Runtime can use only "
            f"{', '.join(usable)} here; install {package} (after removing any other onnxruntime) and its libraries",
            {"key": "faces.providers"},
        )


def _check_signatures(folder: Path, detector: typing.Any, recogniser: typing.Any) -> None:  # noqa: ANN401 - untyped
    if len(detector.get_outputs()) != 9:  # noqa: PLR2004 - scores, boxes and landmarks at three strides
        raise WeightsError(f"{folder / DETECTOR} is not an SCRFD detector with landmarks", {"file": DETECTOR})
    inputs, outputs = recogniser.get_inputs(), recogniser.get_outputs()
    if inputs[0].shape[2:] != [112, 112] or len(outputs) != 1 or outputs[0].shape[-1] != 512:  # noqa: PLR2004
        raise WeightsError(f"{folder / RECOGNISER} is not a recogniser of 112 px to 512 numbers", {"file": RECOGNISER})
