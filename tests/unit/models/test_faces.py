"""Which of the faces found is meant, and what the analyser that needs no weights finds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from instantid_serve.errors import FaceError, FaceIndexError, FaceNotFoundError, FaceTooSmallError, MultipleFacesError
from instantid_serve.messages import FaceFeatures
from instantid_serve.models import face_likeness
from instantid_serve.models.alignment import ALIGNED_SIDE_PX, TEMPLATE, align
from instantid_serve.models.builtin import BuiltinAnalyzer
from instantid_serve.models.face_descriptor import describe
from instantid_serve.models.face_points import aligned_frame, find_landmarks
from instantid_serve.models.faces import choose_face, open_analyzer
from instantid_serve.models.gradients import Frame, crop, histograms
from instantid_serve.settings import FaceSettings

ANALYZER = BuiltinAnalyzer()
ASTRONAUT = skimage.data.astronaut()
# Her landmarks, read off the photo by eye.
EYES_NOSE_MOUTH = np.array([[203, 103], [247, 103], [226, 125], [206, 146], [242, 144]], np.float32)
FACELESS = ("brick", "chelsea", "coffee", "coins", "grass", "gravel", "page", "rocket", "text")


def face(*box: float) -> FaceFeatures:
    return FaceFeatures(np.zeros(512, np.float32), np.zeros((5, 2), np.float32), (box[0], box[1], box[2], box[3]), 0.9)


LARGE, SMALL = face(10.4, 20, 210, 220), face(300, 20, 330, 50)


def test_the_only_face_is_chosen():
    assert choose_face([LARGE], "only", min_face_px=40) is LARGE


def test_no_face_is_told_with_advice():
    with pytest.raises(FaceNotFoundError) as refusal:
        choose_face([], "largest", min_face_px=40)

    assert refusal.value.facts["advice"]


def test_several_faces_without_a_choice_are_told_with_their_boxes():
    with pytest.raises(MultipleFacesError) as refusal:
        choose_face([LARGE, SMALL], "only", min_face_px=40)

    assert refusal.value.facts["faces"] == [
        {"index": 0, "box": [10, 20, 210, 220]},
        {"index": 1, "box": [300, 20, 330, 50]},
    ]


def test_the_largest_is_the_first():
    assert choose_face([LARGE, SMALL], "largest", min_face_px=40) is LARGE


@pytest.mark.parametrize("index", [2, -1, 1000])
def test_an_index_beyond_the_faces_is_refused(index: int):
    with pytest.raises(FaceIndexError, match=f"no face {index}"):
        choose_face([LARGE, SMALL], index, min_face_px=1)


def test_too_small_a_face_is_refused_by_its_shorter_side():
    with pytest.raises(FaceTooSmallError, match="30 px"):
        choose_face([LARGE, SMALL], 1, min_face_px=31)

    assert choose_face([LARGE, SMALL], 1, min_face_px=30) is SMALL


sides = st.floats(-50, 500, width=32)


@settings(deadline=None)
@given(
    st.lists(st.tuples(sides, sides, sides, sides), max_size=6),
    st.one_of(st.sampled_from(["only", "largest"]), st.integers(-2, 8)),
)
def test_a_choice_gives_one_of_the_faces_or_a_named_refusal(boxes: list[tuple[float, ...]], choice: str | int):
    faces = [face(x, y, x + abs(w), y + abs(h)) for x, y, w, h in boxes]

    try:
        chosen = choose_face(faces, choice, min_face_px=40)  # type: ignore[arg-type]
    except FaceError:
        return

    assert any(chosen is one for one in faces)
    assert min(chosen.box[2] - chosen.box[0], chosen.box[3] - chosen.box[1]) >= 40


def dimmed(photo: np.ndarray) -> np.ndarray:
    return (photo * 0.5).astype(np.uint8)


def overexposed(photo: np.ndarray) -> np.ndarray:
    return np.clip(photo * 1.4 + 20, 0, 255).astype(np.uint8)


def gray(photo: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def compressed(photo: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], cv2.IMREAD_COLOR)


def cropped(photo: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(photo[20:260, 100:360])


def noisy(photo: np.ndarray) -> np.ndarray:
    return np.clip(photo + np.random.default_rng(0).normal(0, 20, photo.shape), 0, 255).astype(np.uint8)


def turned(photo: np.ndarray) -> np.ndarray:
    movement = cv2.getRotationMatrix2D((226, 123), 12, 1)
    return cv2.warpAffine(photo, movement, photo.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def enlarged(photo: np.ndarray) -> np.ndarray:
    return cv2.resize(photo, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)


def reduced(photo: np.ndarray) -> np.ndarray:
    return cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def far_away(photo: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(photo, 300, 300, 300, 300, cv2.BORDER_CONSTANT, value=(120, 130, 140))


def close_up(photo: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(photo[65:170, 175:277])


CHANGES = [dimmed, overexposed, gray, compressed, cropped, noisy, turned, enlarged, reduced, far_away, close_up]


def test_the_astronauts_face_and_landmarks_are_found():
    (found,) = ANALYZER.find(ASTRONAUT)

    width = found.box[2] - found.box[0]
    assert np.abs(found.landmarks - EYES_NOSE_MOUTH).max() < 0.12 * width
    assert np.abs(found.landmarks[:2] - EYES_NOSE_MOUTH[:2]).max() < 0.06 * width
    assert found.score > 0.8


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_face_and_nothing_else_is_found_in_a_changed_photo(change: Callable[[np.ndarray], np.ndarray]):
    assert len(ANALYZER.find(change(ASTRONAUT))) == 1


@pytest.mark.parametrize("name", FACELESS)
def test_a_photo_without_a_frontal_face_has_none(name: str):
    photo = getattr(skimage.data, name)()

    faces = ANALYZER.find(np.ascontiguousarray(photo) if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2))

    assert faces == []


@pytest.mark.parametrize("shape", [(64, 64), (64, 2048), (2048, 64), (512, 512)])
@pytest.mark.parametrize("fill", ["black", "white", "noise"])
def test_nothing_is_found_in_nothing(shape: tuple[int, int], fill: str):
    random = np.random.default_rng(0)
    photos = {
        "black": np.zeros((*shape, 3), np.uint8),
        "white": np.full((*shape, 3), 255, np.uint8),
        "noise": random.integers(0, 256, (*shape, 3), np.uint8),
    }

    assert ANALYZER.find(photos[fill]) == []


def two_faces() -> np.ndarray:
    """A smaller astronaut to the left of a larger."""
    photo = np.full((280, 520, 3), 128, np.uint8)
    photo[20:212, 20:228] = cv2.resize(cropped(ASTRONAUT), (208, 192), interpolation=cv2.INTER_AREA)
    photo[20:260, 240:500] = cropped(ASTRONAUT)
    return photo


def test_two_faces_are_found_largest_first():
    faces = ANALYZER.find(two_faces())

    assert [found.box[0] > 240 for found in faces] == [True, False]


def test_threads_may_share_it():
    photos = [ASTRONAUT, two_faces(), close_up(ASTRONAUT)]
    alone = [ANALYZER.find(photo) for photo in photos]

    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(ANALYZER.find, photos * 2))

    assert [[face.box for face in faces] for faces in together] == [[face.box for face in faces] for faces in alone * 2]


def test_an_analysis_repeats_itself():
    first, second = BuiltinAnalyzer().find(ASTRONAUT)[0], BuiltinAnalyzer().find(ASTRONAUT)[0]

    assert np.array_equal(first.embedding, second.embedding)
    assert np.array_equal(first.landmarks, second.landmarks)


def test_an_embedding_has_the_size_of_arcfaces():
    (found,) = ANALYZER.find(ASTRONAUT)

    assert found.embedding.dtype == np.float32
    assert 10 < np.linalg.norm(found.embedding) < 30


@functools.cache
def reference_embeddings() -> np.ndarray:
    """Embeddings of scikit-image's hundred people."""
    embeddings = []
    for square in face_likeness.reference_faces():
        gray_face = cv2.resize(square, (240, 240), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
        photo = np.repeat(gray_face[..., None], 3, axis=2)
        embeddings.append(describe(align(photo, find_landmarks(gray_face, Frame(119.5, 119.5, 240)))))
    return np.stack(embeddings)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T) / np.linalg.norm(a) / np.linalg.norm(b, axis=-1)


def test_one_person_is_nearer_to_herself_than_to_any_of_a_hundred_others():
    (original,) = ANALYZER.find(ASTRONAUT)
    others = cosine(original.embedding, reference_embeddings()).max()

    changed = [ANALYZER.find(change(ASTRONAUT))[0].embedding for change in (dimmed, cropped, reduced, turned, gray)]

    assert cosine(original.embedding, np.stack(changed)).min() > others + 0.1


def test_a_hundred_people_are_all_different():
    embeddings = reference_embeddings()

    alike = embeddings @ embeddings.T / 400

    assert (alike - np.eye(100)).max() < 0.95


def test_the_judge_knows_faces_it_was_not_shown():
    squares = face_likeness.reference_squares()
    known, strange, others = squares[:80], squares[80:100], squares[100:]
    whole = Frame(12, 12, 25)

    direction, offset = face_likeness.fit(known, others)

    judged = histograms(np.stack([crop(square, whole) for square in strange])) @ direction + offset
    assert (judged > 0).mean() >= 0.9


def test_alignment_puts_the_landmarks_on_the_template():
    photo = np.zeros((300, 300, 3), np.uint8)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]], np.float32)
    landmarks = (TEMPLATE @ turn.T) * 1.5 + (120, 20)
    for x, y in landmarks:
        cv2.circle(photo, (round(float(x)), round(float(y))), 4, (255, 255, 255), cv2.FILLED)

    aligned = align(photo, landmarks.astype(np.float32))

    assert aligned.shape == (ALIGNED_SIDE_PX, ALIGNED_SIDE_PX, 3)
    assert all(aligned[round(float(y)), round(float(x)), 0] > 200 for x, y in TEMPLATE)


def test_landmarks_on_one_point_are_refused():
    with pytest.raises(ValueError, match="fall on one point"):
        align(ASTRONAUT, np.ones((5, 2), np.float32))


def test_the_aligned_frame_is_the_aligned_crop():
    frame = aligned_frame(Frame(100, 120, 80))

    assert frame.side == pytest.approx(80 * 1.03, abs=1)
    assert frame.y < 120  # eyes are at 46 % of the aligned crop and at 33 % of the frame


def test_the_builtin_analyser_is_opened_by_default(tmp_path: object):
    assert isinstance(open_analyzer(FaceSettings(), tmp_path), BuiltinAnalyzer)  # type: ignore[arg-type]
