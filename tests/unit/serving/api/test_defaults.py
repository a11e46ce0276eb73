"""A tenant's defaults fill what its requests leave out, and nothing else."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from instantid_serve.errors import InvalidRequestError
from instantid_serve.serving.api.defaults import check_defaults, with_defaults
from instantid_serve.serving.api.schemas import fields_model
from instantid_serve.settings import LimitSettings

FIELDS = fields_model(LimitSettings())
DEFAULTS = {
    "steps": 12,
    "guidance_scale": 4.5,
    "exact": True,
    "sampler": "euler",
    "face": 1,
    "width": 512,
    "height": 640,
}


@pytest.fixture
def tenant(context):
    context.tenants.ensure("acme")
    return context.tenants.change("acme", {"defaults": DEFAULTS})


def test_what_a_request_leaves_out_is_filled(tenant):
    assert with_defaults({"prompt": "a portrait"}, tenant) == DEFAULTS | {"prompt": "a portrait"}


def test_what_a_request_gives_stays_even_when_it_is_null(tenant):
    filled = with_defaults({"prompt": "a portrait", "steps": 30, "sampler": None}, tenant)

    assert (filled["steps"], filled["sampler"]) == (30, None)


@pytest.mark.parametrize("given_side", [{"width": 1024}, {"height": 1024}])
def test_who_names_a_side_gets_no_default_for_the_other(tenant, given_side):
    filled = with_defaults(given_side, tenant)

    assert filled.keys() & {"width", "height"} == given_side.keys()


def test_a_form_and_json_come_to_the_same(tenant):
    from_json = FIELDS.model_validate(with_defaults({"prompt": "a portrait"}, tenant))
    from_form = FIELDS.model_validate_strings(with_defaults({"prompt": "a portrait"}, tenant, as_text=True))

    assert from_json == from_form


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from([*DEFAULTS, "prompt", "seed"]), st.integers()))
def test_nothing_that_a_request_gives_is_ever_changed(tenant, sent):
    filled = with_defaults(sent, tenant)

    assert {name: filled[name] for name in sent} == sent
    assert filled.keys() <= sent.keys() | DEFAULTS.keys()


def test_defaults_within_the_limits_are_taken():
    check_defaults(DEFAULTS, FIELDS)


@pytest.mark.parametrize(
    "defaults", [{"steps": 101}, {"steps": "12"}, {"image": "x"}, {"width": 512}, {"count": 0}, {"exact": 1}]
)
def test_defaults_that_no_request_could_have_are_refused(defaults):
    with pytest.raises(InvalidRequestError):
        check_defaults(defaults, FIELDS)
