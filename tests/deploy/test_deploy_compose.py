"""`deploy/compose.yaml`: what it names exists, and who reaches whom."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from service.app import api_description
from service.settings import Settings
from tests.deploy.reading import DEPLOY, ROOT, Dockerfile, env_file, parse_command, settings_of

ADAPTERS = "/home/hone/state/adapters"
ENGINES = ("vllm-0", "vllm-1")
HONE = ("service", "learner")


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = load("compose.yaml")["services"]
    return found


def filled_in(value: str, names: dict[str, str]) -> str:
    """`${NAME:-default}` and `${NAME:?why}` as Compose reads them."""
    return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: names.get(found[1]) or (found[2] or ""), value)


def environment_of(service: dict[str, Any], target: str | None) -> dict[str, str]:
    """All that a container finds in its environment: from its image, from env_file, from environment."""
    from_image = Dockerfile().environment(target) if target else {}
    secrets = {name: value or "secret" for name, value in env_file(DEPLOY / "secrets.env.example").items()}
    own = {name: filled_in(str(value), secrets) for name, value in service["environment"].items()}
    return from_image | env_file(DEPLOY / service["env_file"]) | own


def settings_in(service: dict[str, Any]) -> Settings:
    return settings_of(environment_of(service, service.get("build", {}).get("target")))


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Path in the container → (volume or file, mode)."""
    found = {}
    for line in service["volumes"]:
        source, path, *mode = line.split(":")
        found[path] = source, (mode or ["rw"])[0]
    return found


@pytest.mark.parametrize("names", [("compose.yaml",), ("compose.yaml", "compose.monitoring.yaml")], ids=str)
def test_the_files_are_what_the_compose_specification_says(names: tuple[str, ...]) -> None:
    merged: dict[str, Any] = {}
    for name in names:
        for key, value in load(name).items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    compose = PyCompose.from_yaml(yaml.safe_dump(merged))
    compose.validate()
    compose.to_spec()
    for service in merged["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in merged["volumes"] or (DEPLOY / source).is_file(), source
        assert set(service.get("depends_on", {})) <= set(merged["services"])


def test_every_setting_is_one_that_hone_reads(services: dict[str, Any]) -> None:
    for name in (*HONE, *ENGINES):
        settings = settings_in(services[name])
        assert settings.engine.urls == tuple(f"http://{engine}:8000" for engine in ENGINES)
        assert settings.learner.rank <= settings.engine.max_lora_rank
        if name in HONE:
            assert settings.store.url is not None and settings.store.url.endswith("@postgres/hone")
            assert settings.adapters_folder == Path(ADAPTERS)


def test_one_command_each_that_our_parser_reads_and_that_no_image_contradicts(services: dict[str, Any]) -> None:
    for name, word in (("service", "serve"), ("learner", "learn")):
        assert services[name]["command"] == [word]
        parse_command(services[name]["command"])
        assert services[name]["build"]["target"] in Dockerfile().targets
        assert (DEPLOY / services[name]["build"]["context"]).resolve() == ROOT
    assert services["service"].get("deploy", {}).get("replicas", 1) == 1


def test_the_documented_commands_are_ours(services: dict[str, Any]) -> None:
    for file in ("compose.yaml", "compose.monitoring.yaml"):
        said = re.findall(r"run --rm service (.*)", (DEPLOY / file).read_text())
        assert said
        for words in said:
            parse_command(shlex.split(words))


def test_nothing_is_published_beyond_this_machine(services: dict[str, Any]) -> None:
    monitoring = load("compose.monitoring.yaml")["services"]
    published = {name: one["ports"] for name, one in (services | monitoring).items() if "ports" in one}
    assert published == {"service": ["127.0.0.1:8000:8000"], "grafana": ["127.0.0.1:3000:3000"]}


def test_only_the_service_and_prometheus_reach_the_engines_and_only_hone_the_store(services: dict[str, Any]) -> None:
    everybody = services | load("compose.monitoring.yaml")["services"]

    def inside(network: str) -> set[str]:
        return {name for name, one in everybody.items() if network in one.get("networks", ["default"])}

    assert inside("engines") == {*ENGINES, "service", "prometheus"}
    assert inside("store") == {"postgres", *HONE} and load("compose.yaml")["networks"]["store"]["internal"] is True


def test_the_engines_read_the_adapters_that_the_others_write_under_one_path(services: dict[str, Any]) -> None:
    for name in HONE:
        assert mounts(services[name])[ADAPTERS] == ("adapters", "rw")
        assert mounts(services[name])["/models"] == ("models", "ro")
        assert environment_of(services[name], None)["HF_HUB_OFFLINE"] == "1"
    for name in ENGINES:
        assert mounts(services[name])[ADAPTERS] == ("adapters", "ro")
        assert mounts(services[name])["/models"] == ("models", "rw")
        assert services[name]["entrypoint"] == ["bash", "/start.sh"] and "/start.sh" in mounts(services[name])
    for name in (*HONE, *ENGINES):
        assert environment_of(services[name], None)["HF_HOME"] == "/models"


def test_each_gpu_has_one_owner_by_default(services: dict[str, Any]) -> None:
    secrets = env_file(DEPLOY / "secrets.env.example")
    owners = {}
    for name in (*ENGINES, "learner"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        (gpu,) = device["device_ids"]
        assert filled_in(gpu, secrets) == filled_in(gpu, {})
        owners[filled_in(gpu, {})] = name
    assert len(owners) == 3


def test_everything_starts_again_by_itself_and_says_how_it_is(services: dict[str, Any]) -> None:
    routes = {route.path for route in api_description().routes if hasattr(route, "path")}
    for name, service in services.items():
        assert service["restart"] == "unless-stopped"
        if name in ("service", *ENGINES):
            (path,) = re.findall(r"http://127.0.0.1:8000(/\w+)", " ".join(service["healthcheck"]["test"]))
            assert path in routes
    for name in HONE:
        assert services[name]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "healthcheck" in services["postgres"]


def test_the_files_for_compose_and_kubernetes_say_the_same() -> None:
    compose, cluster = env_file(DEPLOY / "hone.env"), env_file(DEPLOY / "kubernetes" / "hone.env")
    assert compose.pop("HONE_ENGINE__URLS") != cluster.pop("HONE_ENGINE__URLS")
    assert compose == cluster


def test_filled_in_secrets_are_never_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"deploy/.env", "deploy/operator.key", "deploy/kubernetes/secrets.env"} <= set(ignored)
