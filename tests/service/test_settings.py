"""Settings: where they come from, which wins, and that no mistake passes in silence."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import SettingsError
from service.settings import SPROUT, Settings, load_settings
from service.stack import as_environment


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "hone.toml").write_text("[server]\nport = 1\nhost = '::1'\n[learner]\nrank = 4\n")
    environment = {"HONE_SERVER__PORT": "2", "HONE_LEARNER__SEED": "7", "HONE_HOME": "/elsewhere", "PATH": "/bin"}
    settings = load_settings(tmp_path, {"server": {"port": 3}}, environment)
    assert (settings.server.port, settings.server.host) == (3, "::1")
    assert (settings.learner.rank, settings.learner.seed) == (4, 7)
    assert load_settings(tmp_path, None, environment).server.port == 2
    assert load_settings(tmp_path, None, {}).server.port == 1
    assert load_settings(None, None, {"HONE_HOME": str(tmp_path)}).home == tmp_path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[server]\nprot = 1", "server.prot"),
        ("[sever]\nport = 1", "sever"),
        ("[server]\nport = 'many'", "server.port"),
        ("[server]\nport = 70000", "server.port"),
        ("[rollout]\nreconcile_seconds = inf", "rollout.reconcile_seconds"),
        ("[constitution]\njudge = 'localhost:9000'", "constitution.judge.*is no judge: self, a version such as v3"),
        ("[constitution]\njudge = ''", "constitution.judge"),
        ("[constitution]\njudge = 'V3'", "constitution.judge"),
        ("[constitution]\njudge = 'http://'", "constitution.judge"),
        ("[constitution]\njudge = 'http://[x/v1'", "constitution.judge"),
        ("[constitution]\njudge = 'https://judge:many/v1'", "constitution.judge"),
        ("[constitution]\njudge = 'http://ann:se/cret@judge/v1'", "judge: 'http://judge/v1' is no judge.*%2F"),
        ("[constitution]\njudge = 'http://ann:1/cret@judge/v1'", "judge: 'http://judge/v1' is no judge.*%2F"),
        ("[constitution]\njudge = 'ann:cret@judge/v1'", "judge: 'judge/v1' is no judge"),
        ("[home]\npath = '/x'", "no section 'home'"),
        ("port = 1", "'port' is no section"),
        ("server = 1", "'server' is no section"),
        ("[server", "hone.toml"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "hone.toml").write_text(content)
    with pytest.raises(SettingsError, match=words) as refused:
        load_settings(tmp_path, None, {})
    assert "cret" not in str(refused.value)


def test_a_mistake_in_the_environment_is_named(tmp_path: Path) -> None:
    for name in ("HONE_SERVER__PROT", "HONE_SEVER__PORT", "HONE_HOME__PATH"):
        with pytest.raises(SettingsError):
            load_settings(tmp_path, None, {name: "1"})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HONE_PORT", "HONE_SERVER__PORT"),
        ("HONE_SERVER_PORT", "HONE_SERVER__PORT"),
        ("HONE_LEARNER_RNAK", "HONE_LEARNER__RANK"),
        ("HONE_MODEL", "HONE_ENGINE__MODEL"),
        ("HONE_HOEM", "HONE_HOME"),
    ],
)
def test_a_variable_that_says_no_setting_is_refused_with_the_one_that_was_meant(
    tmp_path: Path, name: str, meant: str
) -> None:
    with pytest.raises(SettingsError, match=rf"variable {name} says no setting\. Did you mean {meant}\?"):
        load_settings(tmp_path, None, {"HONE_HOME": "/elsewhere", name: "8001"})


def test_a_variable_that_is_like_no_setting_is_refused_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"variable HONE_XYZZY says no setting\. Name it right, or unset it"):
        load_settings(tmp_path, None, {"HONE_XYZZY": "1"})


def test_what_kubernetes_says_of_a_service_called_hone_is_no_setting(tmp_path: Path) -> None:
    """In every pod of its namespace, unless enableServiceLinks is false (Kubernetes' documentation of services)."""
    of_services = {
        "HONE_PORT": "tcp://10.0.0.11:8000",
        "HONE_PORT_8000_TCP_ADDR": "10.0.0.11",
        "HONE_SERVICE_HOST": "10.0.0.11",
        "HONE_SERVICE_PORT_HTTP": "8000",
        "HONE_VLLM_PORT": "tcp://10.0.0.12:8000",
        "HONE_VLLM_SERVICE_PORT": "8000",
    }
    assert load_settings(tmp_path, None, of_services) == load_settings(tmp_path, None, {})
    with pytest.raises(SettingsError, match="HONE_SERVICE_PORT"):
        load_settings(tmp_path, None, {"HONE_SERVICE_PORT": "8001"})


def test_settings_are_frozen_and_explained(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, None, {})
    with pytest.raises(ValidationError):
        settings.server.port = 1  # type: ignore[misc]
    for name in Settings.model_fields:
        section = getattr(settings, name)
        for key, field in getattr(type(section), "model_fields", {}).items():
            assert field.description, f"{name}.{key} has no description"


def test_the_processes_of_one_start_agree_on_every_setting(tmp_path: Path) -> None:
    (tmp_path / "hone.toml").write_text("[server]\nport = 1\n")
    changes: dict[str, dict[str, Any]] = {
        "server": {"port": 8000, "pages": False, "allowed_origins": ("http://a", "http://b")},
        "engine": {"kv_cache_gib": 0.25},
        "store": {"url": "postgresql+psycopg://hone:secret@db.internal/hone?options=-c%20a%3D1,2"},
    }
    settings = load_settings(tmp_path, changes, {})
    assert load_settings(tmp_path, None, as_environment(settings)) == settings


def test_addresses_and_paths_follow_from_the_settings(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"server": {"host": "0.0.0.0", "port": 9}}, {})
    assert settings.server.local_url == "http://127.0.0.1:9"
    assert load_settings(tmp_path, {"server": {"host": "::1"}}, {}).server.local_url == "http://[::1]:8000"
    assert settings.store_url == f"sqlite:///{tmp_path}/hone.db"
    assert settings.model_path == str(SPROUT)
    assert load_settings(tmp_path, {"engine": {"model": "some/model"}}, {}).model_path == "some/model"


def test_a_bad_value_is_told_in_plain_words(tmp_path: Path) -> None:
    words = 'server.port: must be a whole number, not "many"; learner.rank: must be at least 1, not 0.'
    with pytest.raises(SettingsError, match=re.escape(words)):
        load_settings(tmp_path, {"server": {"port": "many"}, "learner": {"rank": 0}}, {})


@pytest.mark.parametrize("empty", ["", " "])
def test_a_model_without_a_name_is_told_and_how_to_name_one(tmp_path: Path, empty: str) -> None:
    with pytest.raises(SettingsError, match=r"engine\.model: No model is named\. Name a folder or a model of the hub"):
        load_settings(tmp_path, environment={"HONE_ENGINE__MODEL": empty})


def test_what_is_no_list_stays_whole_in_the_environment(tmp_path: Path) -> None:
    """A store's URL may have commas in it."""
    environment = {
        "HONE_STORE__URL": "postgresql+psycopg://a,b/hone",
        "HONE_ADAPTERS__URL": "s3://bucket/a,b",
        "HONE_SERVER__ALLOWED_ORIGINS": "https://a.example,https://b.example",
    }
    settings = load_settings(tmp_path, None, environment)
    assert settings.store_url == "postgresql+psycopg://a,b/hone"
    assert settings.adapters.url == "s3://bucket/a,b"
    assert settings.server.allowed_origins == ("https://a.example", "https://b.example")
    assert load_settings(tmp_path, None, as_environment(settings)) == settings


def test_origins_are_kept_as_browsers_send_them(tmp_path: Path) -> None:
    environment = {
        "HONE_SERVER__ALLOWED_ORIGINS": "HTTPS://A.example:443, https://b.example/ ,http://[::1]:80,http://c:1"
    }
    settings = load_settings(tmp_path, None, environment)
    assert settings.server.allowed_origins == ("https://a.example", "https://b.example", "http://[::1]", "http://c:1")
    assert load_settings(tmp_path, None, as_environment(settings)) == settings
    assert load_settings(tmp_path, None, {"HONE_SERVER__ALLOWED_ORIGINS": ""}).server.allowed_origins == ()


@pytest.mark.parametrize("origin", ["chat.example", "https://chat.example/app", "ftp://chat.example", "https://a:port"])
def test_what_no_browser_sends_is_no_origin(tmp_path: Path, origin: str) -> None:
    with pytest.raises(SettingsError, match=r"server\.allowed_origins"):
        load_settings(tmp_path, {"server": {"allowed_origins": [origin]}}, {})


@pytest.mark.parametrize("origin", ["*", "https://*.example"])
def test_nobody_lets_every_site_in_by_a_star(tmp_path: Path, origin: str) -> None:
    with pytest.raises(SettingsError, match=r"server\.allowed_origins: \* would let every site's pages in; name each"):
        load_settings(tmp_path, {"server": {"allowed_origins": ["https://a.example", origin]}}, {})


def test_a_place_for_adapters_is_a_url(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"adapters\.url.*is no URL"):
        load_settings(tmp_path, {"adapters": {"url": "/srv/adapters"}}, {})


@pytest.mark.parametrize("advantages", ["rloo", "grpo"])
def test_replies_that_are_compared_must_be_two(tmp_path: Path, advantages: str) -> None:
    with pytest.raises(SettingsError, match="replies must be at least 2"):
        load_settings(tmp_path, {"learner": {"method": "ppo"}, "ppo": {"advantages": advantages, "replies": 1}}, {})
    with pytest.raises(SettingsError, match="replies must be at least 2"):
        load_settings(tmp_path, {"learner": {"method": advantages}, "ppo": {"replies": 1}}, {})
    assert load_settings(tmp_path, {"ppo": {"advantages": "gae", "replies": 1}}, {}).ppo.replies == 1


def test_a_kl_coefficient_that_could_never_be_adapted_is_refused(tmp_path: Path) -> None:
    never = {"target_kl": 2.0, "kl_coefficient": 0.0}
    with pytest.raises(SettingsError, match="target_kl adapts kl_coefficient by factors"):
        load_settings(tmp_path, {"learner": {"method": "ppo"}, "ppo": never}, {})
    for ppo in ({"target_kl": 2.0}, {"kl_coefficient": 0.0}):
        assert load_settings(tmp_path, {"learner": {"method": "ppo"}, "ppo": ppo}, {}).ppo.unsuitable == ""


def test_iterations_in_which_the_policy_learns_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="raise iterations, or lower value_warmup"):
        load_settings(tmp_path, {"learner": {"preferences": "ppo"}, "ppo": {"iterations": 2}}, {})
    for ppo in ({"iterations": 3}, {"iterations": 2, "value_warmup": 1}, {"iterations": 1, "advantages": "rloo"}):
        assert (
            load_settings(tmp_path, {"learner": {"method": "ppo"}, "ppo": ppo}, {}).ppo.iterations == ppo["iterations"]
        )
    for learner in ({"method": "rloo"}, {}):  # by which the policy learns from the first one on, or not by `ppo`
        assert load_settings(tmp_path, {"learner": learner, "ppo": {"iterations": 1}}, {}).ppo.iterations == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sharding = 'full'", "set processes to 2 or more"),
        ("sharding = 'full'\nprocesses = 2\nquantise = 'nf4'", "can't share out weights in NF4"),
        ("sharding = 'half'\nprocesses = 2", "learner.sharding"),
    ],
)
def test_a_base_is_shared_out_between_processes_and_not_in_four_bits(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "hone.toml").write_text(f"[learner]\n{content}\n")
    with pytest.raises(SettingsError, match=words):
        load_settings(tmp_path, environment={})
    (tmp_path / "hone.toml").write_text("[learner]\nprocesses = 2\nsharding = 'full'\n")
    assert load_settings(tmp_path, environment={}).learner.sharding == "full"


def test_every_setting_that_is_a_list_comes_through_the_environment(tmp_path: Path) -> None:
    listed = {
        (section, name)
        for section, model in Settings.model_fields.items()
        for name, field in getattr(model.annotation, "model_fields", {}).items()
        if "tuple[" in str(field.annotation)
    }
    assert ("learner", "trackers") in listed
    for section, name in listed:
        values = {"trackers": ("wandb", "mlflow")}.get(name, ("http://127.0.0.1:8001", "http://127.0.0.1:8002"))
        settings = load_settings(tmp_path, None, {f"HONE_{section}__{name}".upper(): ",".join(values)})
        assert getattr(getattr(settings, section), name) == values
        assert load_settings(tmp_path, None, as_environment(settings)) == settings
