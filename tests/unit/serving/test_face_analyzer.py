"""The FaceAnalyzer's memory: whose it is, and what it may not mix up."""

import numpy as np
import pytest
import skimage.data

from instantid_serve import images
from instantid_serve.errors import FaceNotFoundError, PhotoGoneError
from instantid_serve.log_context import stamp
from instantid_serve.messages import GenerationSpec
from instantid_serve.service.results import identity_folder, identity_photo_key, photo_key
from instantid_serve.serving.replicas.face_analyzer import FaceAnalyzer

JOBS = ("gen_06h0kl8t2htt9dihn296v17eis", "gen_06h0kl8t2htt9dihn296v17eit")


class CountingFaces:
    def __init__(self, faces):
        self._faces, self.calls = faces, 0

    def find(self, photo):
        self.calls += 1
        return self._faces.find(photo)


@pytest.fixture
def replica(tmp_path):
    analyzer = FaceAnalyzer({"results": {"kind": "folder", "folder": str(tmp_path)}})
    analyzer._faces = CountingFaces(analyzer._faces)
    return analyzer


def store(replica, tenant, job, pixels):
    key = photo_key(tenant, job)
    replica._store.put(key, images.encode(pixels, "png"), "image/png")
    return key


def spec(**changes):
    return GenerationSpec(prompt="", seed=0, **({"width": 256, "height": 256} | changes))


async def test_a_tenants_second_job_with_the_same_photo_is_answered_from_memory(replica):
    keys = [store(replica, "tenant", job, skimage.data.astronaut()) for job in JOBS]

    first, second = [
        await replica.analyze((key,), spec(width=width)) for key, width in zip(keys, (256, 192), strict=True)
    ]

    assert replica._faces.calls == 1
    assert np.array_equal(first.embedding, second.embedding)
    assert not np.array_equal(first.landmarks, second.landmarks)


async def test_another_tenant_with_the_same_photo_is_not(replica):
    for tenant in ("one", "other"):
        await replica.analyze((store(replica, tenant, JOBS[0], skimage.data.astronaut()),), spec())

    assert replica._faces.calls == 2


async def test_a_bent_photo_is_another_photo(replica):
    key = store(replica, "tenant", JOBS[0], skimage.data.astronaut())

    straight = await replica.analyze((key,), spec(width=448, height=512))
    bent = await replica.analyze((key,), spec(width=448, height=512, fit="stretch"))

    assert replica._faces.calls == 2
    assert not np.allclose(straight.landmarks, bent.landmarks, atol=1)


async def test_a_photo_without_a_face_is_refused_every_time(replica):
    key = store(replica, "tenant", JOBS[0], skimage.data.rocket())

    for _ in range(2):
        with pytest.raises(FaceNotFoundError):
            await replica.analyze((key,), spec())

    assert replica._faces.calls == 1


def identity_of(replica, *photos):
    """Keys of an identity's photos."""
    keys = tuple(identity_photo_key("tenant", "idn_1", index) for index in range(len(photos)))
    for key, pixels in zip(keys, photos, strict=True):
        replica._store.put(key, images.encode(pixels, "png"), "image/png")
    return keys


async def test_a_deleted_photo_is_refused_although_it_is_remembered(replica):
    keys = identity_of(replica, skimage.data.astronaut())
    await replica.analyze(keys, spec())

    replica._store.delete_all(identity_folder("tenant", "idn_1"))

    with pytest.raises(PhotoGoneError):
        await replica.analyze(keys, spec())


async def test_the_first_photo_places_the_face_and_all_of_them_say_whose_it_is(replica):
    astronaut = skimage.data.astronaut()
    keys = identity_of(replica, astronaut, np.ascontiguousarray(astronaut[:, ::-1]))

    first, second = [await replica.analyze((key,), spec()) for key in keys]
    together = await replica.analyze(keys, spec())

    assert np.allclose(together.embedding, (first.embedding + second.embedding) / 2)
    assert np.array_equal(together.landmarks, first.landmarks)
    assert not np.array_equal(first.embedding, second.embedding)


class BrokenFaces:
    def find(self, _photo):
        raise ArithmeticError("nobody foresaw this")


async def test_a_photo_without_a_face_is_no_line_and_an_error_nobody_foresaw_is_one_of_the_callers_job(replica, caplog):
    caplog.handler.addFilter(stamp)
    about = {"job_id": JOBS[0], "tenant": "acme", "attempt": 2}
    key = store(replica, "acme", JOBS[0], np.zeros((256, 256, 3), np.uint8))

    with pytest.raises(FaceNotFoundError):
        await replica.analyze((key,), spec(), about)
    replica._faces = BrokenFaces()
    with pytest.raises(ArithmeticError):
        await replica.analyze((key,), spec(fit="stretch", width=64), about)

    assert [record.log_fields for record in caplog.records] == [about]
