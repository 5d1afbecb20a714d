"""Which engines there are, which of them sample for a training, and what they must be able to load."""

from pathlib import Path
from typing import Any

import pytest

from service.errors import SettingsError
from service.settings import check_rank, check_rollouts, load_settings, with_rollout_engines
from service.stack import Stack, as_environment, engines_at, only_one, running_at


@pytest.mark.parametrize(
    ("file", "environment", "flags", "urls"),
    [
        ("", {}, {}, ()),
        ("url = 'http://a:1'", {}, {}, ("http://a:1",)),
        ("url = ['http://a:1', 'http://b']", {}, {}, ("http://a:1", "http://b")),
        ("urls = ['http://a:1/v1/']", {}, {}, ("http://a:1",)),
        ("urls = ['http://a:1']", {"HONE_ENGINE__URL": "http://b/v1"}, {}, ("http://b",)),
        ("url = 'http://a:1'", {"HONE_ENGINE__URLS": "http://b,http://c"}, {}, ("http://b", "http://c")),
        ("", {"HONE_ENGINE__URL": "http://b"}, {"urls": ["http://c"]}, ("http://c",)),
        ("url = 'HTTP://LocalHost:80//v1/'", {}, {}, ("http://localhost",)),
        ("url = 'https://b:443/Models/v1'", {}, {}, ("https://b/Models",)),
        ("urls = ['http://[::1]:1', 'http://[::2]:1']", {}, {}, ("http://[::1]:1", "http://[::2]:1")),
    ],
)
def test_engines_are_named_one_or_several_and_the_later_source_wins(
    tmp_path: Path, file: str, environment: dict[str, str], flags: dict[str, Any], urls: tuple[str, ...]
) -> None:
    (tmp_path / "hone.toml").write_text(f"[engine]\n{file}\n")
    settings = load_settings(tmp_path, {"engine": flags}, environment)
    assert settings.engine.urls == urls
    assert load_settings(tmp_path, None, as_environment(settings)).engine.urls == urls


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("url = 'http://a'\nurls = ['http://b']", "engine.url and engine.urls are the same"),
        ("urls = ['http://a', 'http://a/v1']", "http://a is named twice"),
        (
            "urls = ['http://LOCALHOST:1', 'http://127.0.0.1:1/']",
            "http://localhost:1 and http://127.0.0.1:1 are the same",
        ),
        ("url = 'http://a:99999'", "is no address of an engine"),
        ("url = 'http://a:0'", "is no address of an engine"),
        ("url = 'http://a b'", "is no address of an engine"),
        ("url = 'http://a?x=1'", "is no address of an engine"),
        ("url = 'http://[a'", "is no address of an engine"),
        ("url = 'http://ann:secret@a:1'", "engine.urls: 'http://a:1' is given with a user or a password"),
        ("url = 'http://ann:1/secret@a:1'", "engine.urls: 'http://a:1' is given with a user or a password"),
        ("url = 'localhost:8001'", "is no address of an engine, such as http://"),
        ("url = 'http://'", "is no address"),
        ("url = 7", "engine.urls"),
    ],
)
def test_a_mistake_in_the_engines_addresses_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "hone.toml").write_text(f"[engine]\n{content}\n")
    with pytest.raises(SettingsError, match=words) as refused:
        load_settings(tmp_path, None, {})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ([], "or set engine.max_lora_rank = 33."),
        (["http://a"], "engine.max_lora_rank = 33, if the engines were started with as much (vLLM: --max-lora-rank)."),
    ],
)
def test_a_rank_that_no_engine_would_load_is_told_to_who_is_about_to_learn(
    tmp_path: Path, urls: list[str], words: str
) -> None:
    engine: dict[str, Any] = {"urls": urls}
    settings = load_settings(tmp_path, {"learner": {"rank": 33}, "engine": engine}, {})
    with pytest.raises(SettingsError) as refused:
        check_rank(settings)
    assert "learner.rank is 33, above engine.max_lora_rank (32)" in str(refused.value)
    assert str(refused.value).endswith(words)
    check_rank(load_settings(tmp_path, {"learner": {"rank": 33}, "engine": engine | {"max_lora_rank": 33}}, {}))


def test_who_lets_the_engine_sample_needs_a_slot_for_the_policy(tmp_path: Path) -> None:
    learner: dict[str, Any] = {"rollouts": "engine"}
    settings = load_settings(tmp_path, {"learner": learner, "engine": {"max_loras": 4}}, {})
    with pytest.raises(SettingsError) as refused:
        check_rollouts(settings)
    assert "engine.max_loras must be at least 5 (rollout.keep_loaded, live, canary" in str(refused.value)
    assert "lower rollout.keep_loaded" in str(refused.value)
    check_rollouts(load_settings(tmp_path, {"learner": learner, "engine": {"max_loras": 5}}, {}))
    check_rollouts(load_settings(tmp_path, {"engine": {"max_loras": 3}}, {}))
    own = learner | {"rollout_urls": ["http://a"]}
    check_rollouts(load_settings(tmp_path, {"learner": own, "engine": {"max_loras": 3}}, {}))


def test_which_engines_sample_is_said_in_one_place_or_another(tmp_path: Path) -> None:
    def urls(learner: dict[str, Any], engine: dict[str, Any], running: tuple[str, ...] = ()) -> tuple[str, ...]:
        settings = load_settings(tmp_path, {"learner": learner, "engine": engine}, {})
        return with_rollout_engines(settings, running).learner.rollout_urls

    by_engine = {"rollouts": "engine"}
    assert urls({}, {"urls": ["http://a"]}, ("http://c",)) == ()
    assert urls(by_engine, {"urls": ["http://a"]}, ("http://c",)) == ("http://a",)
    assert urls(by_engine | {"rollout_urls": ["http://b/v1/"]}, {"urls": ["http://a"]}) == ("http://b",)
    assert urls(by_engine, {}, ("http://c",)) == ("http://c",)
    with pytest.raises(SettingsError, match=r"no engine is known.*`hone up` first.*learner\.rollout_urls"):
        urls(by_engine, {})
    environment = {"HONE_LEARNER__ROLLOUT_URLS": "http://b,http://c"}
    settings = load_settings(tmp_path, None, environment)
    assert settings.learner.rollout_urls == ("http://b", "http://c")
    assert load_settings(tmp_path, None, as_environment(settings)) == settings


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[learner]\nrollouts = 'both'", "learner.rollouts"),
        ("[learner]\nrollout_urls = ['localhost:8001']", "learner.rollout_urls: .*is no address of an engine"),
        ("[learner]\nrollout_wait_seconds = 0", "learner.rollout_wait_seconds"),
        ("[learner]\nrollout_tolerance = -1", "learner.rollout_tolerance"),
        ("[ppo]\nimportance_cap = 0.5", "ppo.importance_cap"),
    ],
)
def test_a_mistake_about_the_rollouts_of_a_training_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "hone.toml").write_text(content)
    with pytest.raises(SettingsError, match=words):
        load_settings(tmp_path, None, {})


def test_a_running_stack_tells_where_it_and_its_engines_are(tmp_path: Path) -> None:
    assert (running_at(tmp_path), engines_at(tmp_path)) == (None, ())
    with only_one(tmp_path) as tell:
        assert (running_at(tmp_path), engines_at(tmp_path)) == (None, ())
        tell("http://127.0.0.1:8000", ("http://127.0.0.1:9001", "http://b"))
        assert running_at(tmp_path) == "http://127.0.0.1:8000"
        assert engines_at(tmp_path) == ("http://127.0.0.1:9001", "http://b")
    assert (running_at(tmp_path), engines_at(tmp_path)) == (None, ())


def test_an_engine_that_the_environment_names_is_named_once_to_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_ENGINE__URL", "http://a")
    stack = Stack(load_settings(tmp_path, {"server": {"port": 0}}))
    stack.stop()
    assert stack.engine_urls == ("http://a",)
    assert load_settings(tmp_path, None, stack._environment()).engine.urls == ("http://a",)
