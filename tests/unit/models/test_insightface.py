"""The real analyser's whole path, on small files of antelopev2's signatures."""

from __future__ import annotations

import socket
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_faces

from instantid_serve.errors import ConfigurationError, WeightsError
from instantid_serve.models.faces import open_analyzer
from instantid_serve.models.insightface import DETECTOR, RECOGNISER, InsightFaceAnalyzer
from instantid_serve.settings import FaceSettings

pytest.importorskip("insightface", reason="installed with: pip install --no-deps insightface==2.1")
pytest.importorskip("onnxruntime", reason="installed with the extra cpu or gpu")

CPU = ("CPUExecutionProvider",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_faces.save(tmp_path_factory.mktemp("antelopev2"))


@pytest.fixture(scope="module")
def analyzer(folder: Path) -> InsightFaceAnalyzer:
    return InsightFaceAnalyzer(folder, CPU)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the analyser must not reach for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def photo(*squares: tuple[int, int, tuple[int, int, int]], side: int = 32, size: int = 640) -> np.ndarray:
    """A gray photo with squares at (x, y) in a colour; red ones are faces."""
    pixels = np.full((size, size, 3), 100, np.uint8)
    for x, y, colour in squares:
        pixels[y : y + side, x : x + side] = colour
    return pixels


RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_a_face_is_found_where_it_is(analyzer: InsightFaceAnalyzer):
    (face,) = analyzer.find(photo((320, 192, RED)))

    assert face.box == pytest.approx((304, 176, 368, 240), abs=1)
    assert face.landmarks == pytest.approx(np.array([320, 192]) + tiny_faces.LANDMARKS * 32, abs=0.1)
    assert 0.5 < face.score <= 1


def test_the_networks_see_rgb(analyzer: InsightFaceAnalyzer):
    assert analyzer.find(photo((320, 192, BLUE))) == []
    (face,) = analyzer.find(photo((320, 192, RED)))

    red, green, blue = face.embedding[:3]
    assert red > green == pytest.approx(blue)


def test_the_embedding_is_raw_and_aligned_as_insightface_does(analyzer: InsightFaceAnalyzer):
    face_align = pytest.importorskip("insightface.utils.face_align")
    picture = photo((320, 192, RED))

    (face,) = analyzer.find(picture)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its alignment calls what scikit-image has deprecated
        aligned = face_align.norm_crop(picture, face.landmarks)
    expected = ((aligned.reshape(-1, 3) - 127.5) / 127.5).mean(0) * tiny_faces.GAIN
    assert face.embedding.dtype == np.float32
    assert face.embedding.shape == (512,)
    assert face.embedding[:3] == pytest.approx(expected, rel=1e-4)
    assert np.linalg.norm(face.embedding) > 2


def test_a_photo_without_a_face_has_none(analyzer: InsightFaceAnalyzer):
    assert analyzer.find(photo()) == []


@pytest.mark.parametrize("side", [96, 128, 160])
def test_a_face_too_large_for_640_is_found_in_a_smaller_copy(analyzer: InsightFaceAnalyzer, side: int):
    picture = photo((320, 320, RED), side=side)
    assert len(analyzer._detector.detect(picture[..., ::-1].copy(), input_size=(640, 640))[0]) == 0

    face = analyzer.find(picture)[0]

    assert face.box[2] - face.box[0] > 64  # the most that is found at 640
    assert face.box[0] < 320 + side / 2 < face.box[2]


def test_a_face_at_the_edge_keeps_its_box_beyond_it(analyzer: InsightFaceAnalyzer):
    (face,) = analyzer.find(photo((0, 0, RED)))

    assert face.box[0] < 0
    assert face.box[1] < 0


def test_faces_are_ordered_by_true_area(analyzer: InsightFaceAnalyzer):
    # Without its brackets, (x2 - x1) * y2 - y1 prefers the wide face that lies low.
    wide_and_low, tall_and_high = (255, 90, 0), (255, 70, 90)

    faces = analyzer.find(photo((64, 512, wide_and_low), (384, 64, tall_and_high)))

    assert [face.box[1] < 320 for face in faces] == [True, False]
    assert faces[0].area > faces[1].area
    wrong = [(f.box[2] - f.box[0]) * f.box[3] - f.box[1] for f in faces]
    assert wrong[0] < wrong[1]


def test_the_threshold_is_obeyed(folder: Path):
    assert InsightFaceAnalyzer(folder, CPU, detection_threshold=0.95).find(photo((320, 192, RED))) == []


def test_threads_may_share_it(analyzer: InsightFaceAnalyzer):
    pictures = [photo((32 * n, 320, RED)) for n in range(2, 10)]
    alone = [analyzer.find(picture)[0] for picture in pictures]

    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda picture: analyzer.find(picture)[0], pictures))

    assert [face.box for face in together] == [face.box for face in alone]
    assert all(np.array_equal(a.embedding, b.embedding) for a, b in zip(alone, together, strict=True))


def test_a_provider_that_is_not_here_is_refused_at_start(folder: Path):
    with pytest.raises(ConfigurationError, match="install onnxruntime-gpu"):
        InsightFaceAnalyzer(folder, ("TensorrtExecutionProvider", "CPUExecutionProvider"))


def test_no_provider_is_refused_at_start(folder: Path):
    with pytest.raises(ConfigurationError, match="none"):
        InsightFaceAnalyzer(folder, ())


@pytest.mark.parametrize("package", ["insightface", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    folder: Path, package: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ConfigurationError, match=f"pip install .*{package}"):
        InsightFaceAnalyzer(folder, CPU)


@pytest.mark.parametrize("name", [DETECTOR, RECOGNISER])
def test_a_missing_file_is_named(tmp_path: Path, name: str):
    (tiny_faces.save(tmp_path) / name).unlink()

    with pytest.raises(WeightsError, match=name):
        InsightFaceAnalyzer(tmp_path, CPU)


@pytest.mark.parametrize("name", [DETECTOR, RECOGNISER])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, name: str):
    (tiny_faces.save(tmp_path) / name).write_bytes(b"not a model")

    with pytest.raises(WeightsError, match=name):
        InsightFaceAnalyzer(tmp_path, CPU)


def test_exchanged_files_are_refused(tmp_path: Path):
    onnx.save(tiny_faces.recogniser(), tmp_path / DETECTOR)
    onnx.save(tiny_faces.detector(), tmp_path / RECOGNISER)

    with pytest.raises(WeightsError, match="SCRFD"):
        InsightFaceAnalyzer(tmp_path, CPU)


def test_it_is_opened_from_the_model_folder_by_default(tmp_path: Path):
    tiny_faces.save(tmp_path / "antelopev2")

    analyzer = open_analyzer(FaceSettings(analyzer="insightface"), tmp_path)

    assert len(analyzer.find(photo((320, 192, RED)))) == 1
