"""The operators' commands, on a database of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from instantid_serve.cli import app
from instantid_serve.service.api_keys import ApiKeys, id_of
from instantid_serve.service.database import open_database, upgrade
from instantid_serve.service.tenants import Tenants
from instantid_serve.settings import TENANT_SCOPES, TenancySettings


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"


@pytest.fixture
def config(tmp_path, url):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"applications": [{"args": {"database": {"url": url}}}]}))
    return path


@pytest.fixture
def command(config):
    """Run a command on the config's database."""

    def run(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--config", str(config)])

    return run


@pytest.fixture
def database(url):
    database = open_database(url)
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def keys(database):
    return ApiKeys(database)


@pytest.fixture
def tenants(database):
    return Tenants(database, TenancySettings())


class TestTenants:
    def test_create_prints_the_key_and_nothing_else_on_stdout(self, command, keys):
        result = command("tenants", "create", "carol")

        (line,) = result.stdout.splitlines()
        assert keys.find(id_of(line)).scopes == TENANT_SCOPES

    def test_create_sets_what_is_named(self, command, tenants):
        command("tenants", "create", "carol", "--weight", 2, "--pictures-per-month", 9, "--defaults", '{"steps": 12}')

        tenant = tenants.get("carol")
        assert (tenant.weight, tenant.pictures_per_month, tenant.defaults) == (2, 9, {"steps": 12})

    def test_a_name_that_is_taken_is_refused_without_a_key(self, command, keys):
        command("tenants", "create", "carol")

        result = command("tenants", "create", "carol")

        assert (result.exit_code, result.stdout) == (2, "")
        assert len(keys.list("carol")) == 1

    @pytest.mark.parametrize(
        "options",
        [("--weight", 0), ("--defaults", "{"), ("--defaults", '{"steps": 1000}'), ("--max-queued-jobs", -1)],
    )
    def test_what_makes_no_sense_is_refused_and_makes_nothing(self, command, tenants, options):
        result = command("tenants", "create", "carol", *options)

        assert result.exit_code == 2
        assert tenants.list() == []

    def test_set_changes_only_what_is_named_and_unset_gives_back_the_servers(self, command, tenants):
        command("tenants", "create", "carol", "--weight", 2, "--max-queued-jobs", 7)

        command("tenants", "set", "carol", "--requests-per-minute", 60, "--unset", "max-queued-jobs")

        tenant = tenants.get("carol")
        assert (tenant.weight, tenant.requests_per_minute, tenant.max_queued_jobs) == (2, 60, 1000)

    def test_suspend_and_resume(self, command, tenants):
        command("tenants", "create", "carol")

        command("tenants", "suspend", "carol")
        suspended = tenants.get("carol").suspended
        command("tenants", "resume", "carol")

        assert (suspended, tenants.get("carol").suspended) == (True, False)

    def test_list_and_show_tell_json(self, command):
        made = json.loads(command("tenants", "create", "carol", "--json").stdout)

        shown = json.loads(command("tenants", "show", "carol", "--json").stdout)
        listed = json.loads(command("tenants", "list", "--json").stdout)

        assert shown == {name: value for name, value in made.items() if name != "key"}
        assert listed == [shown]

    @pytest.mark.parametrize("words", [("show",), ("set",), ("suspend",), ("keys", "create"), ("keys", "list")])
    def test_an_unknown_tenant_is_an_error_of_one_line(self, command, words):
        result = command("tenants", *words, "nobody")

        assert result.exit_code == 2
        assert result.stderr == "error: not_found: there is no such tenant\n"


class TestKeys:
    def test_a_key_is_made_replaced_listed_and_ended(self, command, keys):
        command("tenants", "create", "carol")
        made = command("tenants", "keys", "create", "carol", "--scope", "usage:read", "--label", "cron").stdout.strip()
        replaced = command("tenants", "keys", "rotate", "carol", id_of(made), "--overlap-s", 0).stdout.strip()

        command("tenants", "keys", "revoke", "carol", id_of(replaced))

        assert keys.find(id_of(made)) is None
        assert keys.find(id_of(replaced)) is None
        listed = json.loads(command("tenants", "keys", "list", "carol", "--json").stdout)
        assert [(key["label"], key["scopes"]) for key in listed[:2]] == [("cron", ["usage:read"])] * 2
        assert made not in str(listed)

    def test_an_operators_key_is_not_made_here(self, command):
        command("tenants", "create", "carol")

        result = command("tenants", "keys", "create", "carol", "--scope", "admin")

        assert (result.exit_code, result.stdout) == (2, "")


class TestDatabase:
    def test_check_fails_until_upgrade_has_run(self, command):
        codes = [command("database", word).exit_code for word in ("check", "upgrade", "check", "upgrade")]

        assert codes == [2, 0, 0, 0]

    def test_the_environment_names_the_database_as_well(self, url, monkeypatch):
        monkeypatch.setenv("INSTANTID_DATABASE__URL", url)

        codes = [CliRunner().invoke(app, ["database", word]).exit_code for word in ("upgrade", "check")]

        assert codes == [0, 0]

    def test_on_postgresql_a_tenant_is_made_as_well(self, postgres, monkeypatch):
        url = postgres.create_database(migrated=False)
        monkeypatch.setenv("INSTANTID_DATABASE__URL", url)

        results = [
            CliRunner().invoke(app, words)
            for words in (["database", "upgrade"], ["tenants", "create", "carol"], ["tenants", "keys", "list", "carol"])
        ]

        postgres.drop_database(url)
        assert [result.exit_code for result in results] == [0, 0, 0]
        assert id_of(results[1].stdout.strip()) in results[2].stdout

    @pytest.mark.parametrize("text", ["{", "applications: []", "applications: [{args: {databse: {}}}]", "- 1"])
    def test_a_config_that_cannot_be_one_is_refused_in_one_line(self, command, config, text):
        config.write_text(text)

        result = command("database", "check")

        assert result.exit_code == 2
        assert result.stderr.startswith("error: configuration: ")

    def test_the_shipped_config_is_read_as_a_server_reads_it(self):
        from instantid_serve.cli.configured import load_settings
        from instantid_serve.serving.config import ServeConfig

        path = Path(__file__).parents[2] / "deployments" / "local.yaml"

        assert load_settings(path) == ServeConfig.load(path).settings
