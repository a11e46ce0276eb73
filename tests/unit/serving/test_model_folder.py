import pytest

from instantid_serve.errors import ConfigurationError, WeightsError
from instantid_serve.models.weights import check_manifest
from instantid_serve.serving.model_folder import provide, require
from instantid_serve.settings import ModelSettings


def test_a_missing_miniature_is_made(tmp_path):
    model = ModelSettings(preset="miniature", folder=tmp_path / "miniature")

    require(model)
    provide(model)

    assert check_manifest(model.folder).preset == "miniature"


def test_a_missing_real_model_names_the_command_that_fetches_it(tmp_path):
    model = ModelSettings(preset="instantid-sdxl", folder=tmp_path / "sdxl")

    for function in (require, provide):
        with pytest.raises(ConfigurationError, match="weights fetch --preset instantid-sdxl"):
            function(model)


def test_a_folder_that_is_not_what_its_manifest_says_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")

    with pytest.raises(WeightsError):
        provide(ModelSettings(preset="miniature", folder=tmp_path))
