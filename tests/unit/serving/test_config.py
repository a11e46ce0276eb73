from pathlib import Path

import pytest
import yaml

from instantid_serve.errors import ConfigurationError
from instantid_serve.serving.config import ServeConfig

LOCAL = Path(__file__).parents[3] / "deployments" / "local.yaml"


@pytest.fixture
def document():
    return yaml.safe_load(LOCAL.read_text())


@pytest.fixture
def load(tmp_path, document):
    """Load the local config as a test changed it."""

    def of(**options):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(document))
        return ServeConfig.load(path, **options)

    return of


@pytest.mark.parametrize("path", sorted(LOCAL.parent.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_file_of_the_project_loads(path):
    assert ServeConfig.load(path).application.import_path == "instantid_serve.serving.app:build"


def test_the_local_config_listens_on_loopback_only_and_fits_two_cores():
    config = ServeConfig.load(LOCAL)

    assert config.url == "http://127.0.0.1:8000"
    assert config.num_cpus <= 2


@pytest.mark.parametrize(
    ("place", "named"),
    [
        (lambda d: d, "nonsense"),
        (lambda d: d["http_options"], "http_options.nonsense"),
        (lambda d: d["logging_config"], "logging_config.nonsense"),
        (lambda d: d["applications"][0], "applications[0].nonsense"),
        (lambda d: d["applications"][0]["deployments"][3], "applications[0].deployments[3].nonsense"),
        (
            lambda d: d["applications"][0]["deployments"][3]["ray_actor_options"],
            "applications[0].deployments[3].ray_actor_options.nonsense",
        ),
        (
            lambda d: d["applications"][0]["deployments"][3].setdefault("autoscaling_config", {}),
            "applications[0].deployments[3].autoscaling_config.nonsense",
        ),
    ],
)
def test_a_key_that_serve_would_drop_silently_is_named_at_every_level(document, load, place, named):
    place(document)["nonsense"] = 1

    with pytest.raises(ConfigurationError, match=named.replace("[", r"\[")):
        load()


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        ("engine", "max_batch_row", 4, "engine.max_batch_row"),
        ("engine", "max_batch_rows", 0, "engine.max_batch_rows"),
        ("dispatcher", "lease_s", 0.1, "dispatcher"),
        ("results", "kind", "ftp", "results"),
    ],
)
def test_a_wrong_setting_is_named(document, load, section, key, value, named):
    document["applications"][0]["args"].setdefault(section, {})[key] = value

    with pytest.raises(ConfigurationError, match=named):
        load()


def test_a_deployment_that_does_not_exist_is_named(document, load):
    document["applications"][0]["deployments"][0]["name"] = "Apis"

    with pytest.raises(ConfigurationError, match="Apis"):
        load()


def test_a_value_that_serve_refuses_is_named(document, load):
    document["applications"][0]["deployments"][0]["max_ongoing_requests"] = -1

    with pytest.raises(ConfigurationError, match="max_ongoing_requests"):
        load()


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\x00"])
def test_a_file_that_is_no_config_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)

    with pytest.raises(ConfigurationError):
        ServeConfig.load(path)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nothing\.yaml"):
        ServeConfig.load(tmp_path / "nothing.yaml")


def test_overrides_are_merged_into_the_applications_args(load):
    config = load(port=9, overrides={"limits": {"max_steps": 7}})

    assert config.url.endswith(":9")
    assert config.settings.limits.max_steps == 7
    assert config.settings.limits.native_side == 256
    assert config.application.args["limits"]["max_steps"] == 7


def test_replicas_count_towards_the_cpus(document, load):
    alone = load().num_cpus
    generator = document["applications"][0]["deployments"][3]
    generator["num_replicas"] = 3

    assert load().num_cpus == pytest.approx(alone + 2 * generator["ray_actor_options"]["num_cpus"])
