"""`deploy/compose.yaml`: what it names exists, and who reaches whom."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from service.app import api_description
from service.settings import Settings
from tests.deploy.reading import DEPLOY, EXTRAS, ROOT, Dockerfile, env_file, parse_command, settings_of

ADAPTERS = "/home/hone/state/adapters"
MONITORING, OBJECT_STORE = "compose.monitoring.yaml", "compose.object-store.yaml"
ENGINES = ("vllm-0", "vllm-1")
HONE = ("service", "learner")


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return found


def merged(*names: str) -> dict[str, Any]:
    """Files one over the other, as Compose merges what ours have: mappings key by key, lists one after the other."""

    def over(below: Any, above: Any) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            return below | {key: over(below[key], value) if key in below else value for key, value in above.items()}
        return [*below, *above] if isinstance(below, list) and isinstance(above, list) else above

    found: dict[str, Any] = {}
    for name in names:
        found = over(found, load(name))
    return found


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = load("compose.yaml")["services"]
    return found


def filled_in(value: str, names: dict[str, str]) -> str:
    """`${NAME:-default}` and `${NAME:?why}` as Compose reads them."""
    return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: names.get(found[1]) or (found[2] or ""), value)


def environment_of(
    service: dict[str, Any], target: str | None, chosen: Mapping[str, str] | None = None
) -> dict[str, str]:
    """All that a container finds in its environment: from its image, from env_file, from environment.

    `chosen`: what stands in `.env` besides the example. A variable without a value is handed on, if it stands there.
    """
    from_image = Dockerfile().environment(target) if target else {}
    secrets = {name: value or "secret" for name, value in env_file(DEPLOY / "secrets.env.example").items()}
    secrets |= chosen or {}
    written = {name: f"${{{name}}}" if value is None else str(value) for name, value in service["environment"].items()}
    own = {name: filled_in(value, secrets) for name, value in written.items()}
    handed_on = {name: value for name, value in own.items() if service["environment"][name] is not None or value}
    return from_image | env_file(DEPLOY / service["env_file"]) | handed_on


def settings_in(service: dict[str, Any], chosen: Mapping[str, str] | None = None) -> Settings:
    return settings_of(environment_of(service, service.get("build", {}).get("target"), chosen))


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Path in the container → (volume or file, mode)."""
    found = {}
    for line in service["volumes"]:
        source, path, *mode = line.split(":")
        found[path] = source, (mode or ["rw"])[0]
    return found


@pytest.mark.parametrize("more", [(), (MONITORING,), (OBJECT_STORE,), (MONITORING, OBJECT_STORE)], ids=str)
def test_the_files_are_what_the_compose_specification_says(more: tuple[str, ...]) -> None:
    found = merged("compose.yaml", *more)
    compose = PyCompose.from_yaml(yaml.safe_dump(found))
    compose.validate()
    compose.to_spec()
    for service in found["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in found["volumes"] or (DEPLOY / source).is_file(), source
        assert set(service.get("depends_on", {})) <= set(found["services"])
        assert set(service["networks"]) <= set(found["networks"])


def test_every_setting_is_one_that_hone_reads(services: dict[str, Any]) -> None:
    for name in (*HONE, *ENGINES):
        settings = settings_in(services[name])
        urls = tuple(f"http://{engine}:8000" for engine in ENGINES)
        assert settings.engine.urls == (urls if name in HONE else ())  # a new list would restart who reads it
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
    for file in ("compose.yaml", MONITORING):
        said = re.findall(r"run --rm service (.*)", (DEPLOY / file).read_text())
        assert said
        for words in said:
            parse_command(shlex.split(words))


def test_nothing_is_published_beyond_this_machine(services: dict[str, Any]) -> None:
    monitoring = load(MONITORING)["services"]
    published = {name: one["ports"] for name, one in (services | monitoring).items() if "ports" in one}
    assert published == {"service": ["127.0.0.1:8000:8000"], "grafana": ["127.0.0.1:3000:3000"]}


def test_only_the_service_and_prometheus_reach_the_engines_and_only_hone_the_store(services: dict[str, Any]) -> None:
    everybody = services | load(MONITORING)["services"]

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


def test_with_an_object_store_the_service_and_the_learner_are_told_where_it_is_and_reach_it(
    services: dict[str, Any],
) -> None:
    stored = merged("compose.yaml", OBJECT_STORE)["services"]
    assert stored.keys() == services.keys()
    assert {name for name, one in stored.items() if one != services[name]} == set(HONE)
    chosen = {"ADAPTERS_URL": "gs://bucket/hone", "ADAPTERS_EXTRA": "gcs", "AWS_DEFAULT_REGION": "somewhere"}
    for name in HONE:
        settings = settings_in(stored[name], chosen)
        assert settings.adapters.url == "gs://bucket/hone" and settings.store == settings_in(services[name]).store
        environment = environment_of(stored[name], None, chosen)
        assert environment["AWS_DEFAULT_REGION"] == "somewhere" and "AWS_ACCESS_KEY_ID" not in environment
        extra = stored[name]["build"]["args"]["EXTRAS"]
        assert {filled_in(extra, chosen), filled_in(extra, {})} == {"gcs", "s3"} <= EXTRAS
        assert any(
            not (load("compose.yaml")["networks"][one] or {}).get("internal") for one in stored[name]["networks"]
        )
    shown = re.findall(r"^#(\w+)=", (DEPLOY / "secrets.env.example").read_text(), re.MULTILINE)
    used = re.findall(r"\$\{(\w+)|^  (AWS_\w+):$", (DEPLOY / OBJECT_STORE).read_text(), re.MULTILINE)
    assert set(shown) == {"".join(names) for names in used}


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
    assert compose == cluster


def test_filled_in_secrets_are_never_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"deploy/.env", "deploy/operator.key", "deploy/kubernetes/secrets.env"} <= set(ignored)
