import numpy as np
import pytest
from doubles.service import spec

from instantid_serve.errors import InvalidRequestError
from instantid_serve.service.generation import Subject, requests_for
from instantid_serve.service.job import Job, JobStatus, Priority

SUBJECT = Subject(np.ones(512, np.float32), np.zeros((5, 2), np.float32))


def job(**changes):
    return Job(
        id="gen_1",
        tenant="alice",
        status=JobStatus.RUNNING,
        spec=spec(**changes),
        photos=("alice/gen_1/photo",),
        priority=Priority.NORMAL,
        virtual_finish=1.0,
        attempts=1,
        max_attempts=None,
        fence=1,
        created_at=0.0,
        updated_at=0.0,
        started_at=0.0,
        finished_at=None,
        deadline_at=None,
        expires_at=None,
        step=0,
        steps=10,
        images=(),
        error=None,
        cancel_requested=False,
        timings={},
        provenance=None,
        metadata={},
        batch_id=None,
        identity_id=None,
    )


def test_every_picture_is_a_request_with_its_own_id_and_seed():
    requests = requests_for(job(count=3, seed=40), SUBJECT)

    assert [(request.id, request.seed) for request in requests] == [("gen_1.0", 40), ("gen_1.1", 41), ("gen_1.2", 42)]


def test_every_parameter_of_the_spec_reaches_the_request():
    changes = {
        "prompt": "p",
        "negative_prompt": "n",
        "width": 72,
        "height": 80,
        "steps": 11,
        "guidance_scale": 3.5,
        "identity_strength": 0.1,
        "identitynet_strength": 0.2,
        "identitynet_start": 0.3,
        "identitynet_end": 0.4,
    }

    [request] = requests_for(job(**changes), SUBJECT)

    assert {name: getattr(request, name) for name in changes} == changes
    assert (request.embedding is SUBJECT.embedding, request.landmarks is SUBJECT.landmarks) == (True, True)
    assert request.deadline_s is None


def test_the_samplers_name_becomes_a_class_and_its_options():
    [request] = requests_for(job(sampler="dpmpp_2m_karras"), SUBJECT)

    assert (request.sampler, request.sampler_options) == ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True})


def test_a_sampler_that_is_not_known_is_the_callers_error():
    with pytest.raises(InvalidRequestError):
        requests_for(job(sampler="nonsense"), SUBJECT)


def test_face_features_are_not_shown():
    assert "1." not in repr(SUBJECT)
