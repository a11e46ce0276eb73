import pytest
from doubles.service import add, image

from instantid_serve.service.fairness import Room
from instantid_serve.service.folder_store import FolderStore
from instantid_serve.service.outlook import Outlooks
from instantid_serve.serving.api.job_views import JobViews


class LinkedStore(FolderStore):
    """Has addresses of its own, which say what was asked of them."""

    def link(self, key, *, media_type, filename, expires_s):
        return f"https://store.test/{key}?type={media_type}&name={filename}&expires={expires_s:g}"


@pytest.fixture
def done(jobs, queue):
    add(jobs, "acme")
    (claim,) = queue.claim("tests", Room(1), 60)
    queue.settle_succeeded(claim.job.id, claim.fence, [image()], {})
    return jobs.get("acme", claim.job.id)


def test_a_picture_has_a_fresh_link_beside_its_path_here(database, done, tmp_path):
    views = JobViews(Outlooks(database), LinkedStore(tmp_path))

    (picture,) = views.of(done).images

    assert picture.url == f"/v1/generations/{done.id}/images/0"
    assert picture.download_url == (
        f"https://store.test/alice/gen_x/1/0.png?type=image/png&name={done.id}-0.png&expires=900"
    )
