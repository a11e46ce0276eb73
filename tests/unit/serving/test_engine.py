"""The engine that a Generator opens: its step times are measured once per kind of device and model."""

import pytest

from instantid_serve.engine.request import ShapeKey
from instantid_serve.serving.replicas import engine
from instantid_serve.settings import Settings

KEY = ShapeKey(8, 8)


@pytest.fixture
def opened(miniature_folder, tmp_path):
    """Opens an engine as a replica does, with changed settings of the engine."""

    def opened(**changes):
        settings = Settings.load(
            {
                "model": {"folder": str(miniature_folder)},
                "limits": {"native_side": 64},
                "engine": {"max_batch_rows": 4, "calibration_folder": str(tmp_path / "calibration"), **changes},
            }
        )
        return engine.open_engine(settings, lambda _: None)

    return opened


def remembered(tmp_path):
    return list((tmp_path / "calibration").glob("*.json"))


def test_step_times_are_known_before_the_first_request_and_remembered(opened, tmp_path):
    times = opened()._scheduler._times
    (file,) = remembered(tmp_path)
    written = file.read_text()

    again = opened()._scheduler._times

    assert times.estimate_s(KEY, 4)
    assert again.to_json() == times.to_json()
    assert file.read_text() == written


def test_another_way_to_use_the_device_is_measured_anew(opened, tmp_path):
    opened()
    opened(max_batch_rows=2)

    assert len(remembered(tmp_path)) == 2


def test_a_damaged_file_is_measured_again(opened, tmp_path):
    opened()
    (file,) = remembered(tmp_path)
    file.write_text('{"max_rows": 4, "steps": [{"key": 1}]}')

    assert opened()._scheduler._times.estimate_s(KEY, 4)


def test_a_folder_that_cannot_be_written_costs_only_the_memory(opened, tmp_path):
    (tmp_path / "calibration").write_text("a file")

    assert opened()._scheduler._times.estimate_s(KEY, 4)


def test_without_calibration_it_learns_while_serving(opened, tmp_path):
    times = opened(calibrate=False)._scheduler._times

    assert times.estimate_s(KEY, 4) is None
    assert not remembered(tmp_path)
