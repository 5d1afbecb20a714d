"""`deploy/kubernetes`: valid by Kubernetes' own schemas, and what one object names, another one is.

It is built twice: by `tests.deploy.kustomize` wherever the tests run, and by kubectl where that is installed, which has
to come to the same.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.app import api_description
from tests.deploy.kustomize import Unbuildable, build, dangling
from tests.deploy.reading import DEPLOY, EXTRAS, Dockerfile, env_file, parse_command, settings_of
from tests.fixtures.waiting import PATIENCE

FOLDER = DEPLOY / "kubernetes"
BUILT = ("kubernetes", "kubernetes-object-store")
KUBERNETES = "1.37"
ADAPTERS = "/home/hone/state/adapters"
Object = dict[str, Any]
KUSTOMIZATION: Object = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))


def objects() -> Iterator[Object]:
    """What the folder's own files say, before kustomize."""
    for name in KUSTOMIZATION["resources"]:
        if (FOLDER / name).is_file():
            yield from yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))


def of_kind(*kinds: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in objects() if one["kind"] in kinds}


WORKLOADS = of_kind("Deployment", "StatefulSet")
SERVICES = of_kind("Service")
POLICIES = of_kind("NetworkPolicy")


def pod(name: str) -> Object:
    found: Object = WORKLOADS[name]["spec"]["template"]
    return found


def container(name: str) -> Object:
    (found,) = pod(name)["spec"]["containers"]
    return dict(found)


def selected(selector: Object) -> set[str]:
    """The workloads whose pods have these labels; no labels are everybody's."""
    wanted = selector.get("matchLabels", {}).items()
    return {name for name in WORKLOADS if wanted <= pod(name)["metadata"]["labels"].items()}


def ports(name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(name).get("ports", ())}


def mounts(name: str) -> dict[str, Object]:
    return {mount["mountPath"]: mount for mount in container(name)["volumeMounts"]}


@pytest.mark.parametrize("one", objects(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_an_object_is_as_kubernetes_has_it(one: Object) -> None:
    kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", BUILT)
def test_the_whole_can_be_built_and_is_as_kubernetes_has_it(name: str) -> None:
    found = build(DEPLOY / name)
    assert not list(dangling(found))
    for (kind, _), one in found.items():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
        assert kind == "Namespace" or one["metadata"]["namespace"] == "hone"
    assert found["ConfigMap", "vllm-start"]["data"] == {"start.sh": (DEPLOY / "vllm" / "start.sh").read_text()}
    assert {(one["kind"], one["metadata"]["name"]) for one in objects()} < found.keys()


@pytest.mark.parametrize("name", BUILT)
def test_kustomize_itself_builds_the_same(name: str, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which has kustomize, is not installed")
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    secrets = tmp_path / "deploy" / "kubernetes" / "secrets.env"
    shutil.copy(secrets.with_name("secrets.env.example"), secrets)
    folder = tmp_path / "deploy" / name
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    ours, said = build(folder), done.stdout
    for kind, generated in ours:
        if kind in ("ConfigMap", "Secret"):
            said, times = re.subn(rf"\b{generated}-[a-z0-9]{{10}}\b", generated, said)
            assert times >= 2, f"nobody uses {kind} {generated}"
    assert {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(said)} == ours


@pytest.mark.parametrize(
    ("file", "text", "instead", "words"),
    [
        ("kubernetes/kustomization.yaml", "- vllm.yaml", "- engine.yaml", "there is no engine.yaml"),
        ("kubernetes/kustomization.yaml", "- ../vllm", "- ../engine", "there is no engine|is outside"),
        ("kubernetes/kustomization.yaml", "- ../vllm", "- ../vllm/start.sh", "is outside of the folder"),
        ("kubernetes/kustomization.yaml", "- ../vllm", "- ..", "has no kustomization.yaml"),
        ("kubernetes/kustomization.yaml", "- ../vllm", "- vllm.yaml", "once more"),
        ("kubernetes/kustomization.yaml", "[hone.env]", "[settings.env]", "there is no settings.env"),
        ("kubernetes/kustomization.yaml", "name: hone-learner,", "name: learner,", "nothing runs the image learner"),
        ("kubernetes/kustomization.yaml", "images:", "helmCharts:", "nothing here knows helmCharts"),
        ("kubernetes/volumes.yaml", "name: adapters", "name: state", "an object twice"),
        ("vllm/kustomization.yaml", "[start.sh]", "[begin.sh]", "there is no begin.sh"),
        ("kubernetes-object-store/kustomization.yaml", "path: keys.yaml", "path: key.yaml", "there is no key.yaml"),
        ("kubernetes-object-store/kustomization.yaml", "service|learner", "gateway", "there is no Deployment gateway"),
        ("kubernetes-object-store/kustomization.yaml", "name: settings", "name: setting", "not there to be merged"),
        ("kubernetes-object-store/kustomization.yaml", "behavior: merge", "behavior: create", "is there already"),
        ("kubernetes-object-store/keys.yaml", "containers/0/env/-", "containers/1/env/-", "has no place for add"),
    ],
)
def test_what_can_not_be_built_is_found(tmp_path: Path, file: str, text: str, instead: str, words: str) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    path = tmp_path / "deploy" / file
    assert text in path.read_text()
    path.write_text(path.read_text().replace(text, instead))
    with pytest.raises(Unbuildable, match=words):
        build(tmp_path / "deploy" / "kubernetes-object-store")


def test_a_folder_that_is_its_own_resource_and_what_nothing_provides_are_found(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    folder = tmp_path / "deploy" / "kubernetes"
    (tmp_path / "deploy" / "kustomization.yaml").write_text("resources: [kubernetes]")
    (folder / "learner.yaml").write_text((folder / "learner.yaml").read_text().replace("name: settings}", "name: own}"))
    (folder / "vllm.yaml").write_text((folder / "vllm.yaml").read_text().replace("key: HF_TOKEN", "key: TOKEN"))
    (folder / "volumes.yaml").write_text((folder / "volumes.yaml").read_text().replace("name: models", "name: hub"))
    lacking = ["ConfigMap own", "Secret secrets TOKEN", *["PersistentVolumeClaim models"] * 3]
    assert sorted(dangling(build(tmp_path / "deploy"))) == sorted(lacking)
    (folder / "kustomization.yaml").write_text("resources: [..]")
    with pytest.raises(Unbuildable, match="is round a folder that it is a resource of"):
        build(folder)


def test_a_workload_owns_the_pods_that_it_makes() -> None:
    for name, one in WORKLOADS.items():
        assert selected(one["spec"]["selector"]) == {name}


def test_a_service_leads_to_a_port_that_its_pods_have() -> None:
    for name, service in SERVICES.items():
        (target,) = selected({"matchLabels": service["spec"]["selector"]})
        assert target == name
        for port in service["spec"]["ports"]:
            assert ports(target)[port["targetPort"]] == port["port"]


def test_what_is_mounted_is_a_volume_and_the_other_way_round() -> None:
    claims, generated = of_kind("PersistentVolumeClaim"), {"settings", "vllm-start"}
    for name, one in WORKLOADS.items():
        volumes = {volume["name"]: volume for volume in pod(name)["spec"].get("volumes", ())}
        templates = {template["metadata"]["name"] for template in one["spec"].get("volumeClaimTemplates", ())}
        assert {mount["name"] for mount in mounts(name).values()} == set(volumes) | templates
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                claim = claims[volume["persistentVolumeClaim"]["claimName"]]
                assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
            if "configMap" in volume:
                assert volume["configMap"]["name"] in generated


def test_settings_and_secrets_are_those_that_kustomize_makes() -> None:
    generated = {one["name"] for one in KUSTOMIZATION["configMapGenerator"]}
    (secrets,) = KUSTOMIZATION["secretGenerator"]
    keys = env_file(FOLDER / f"{secrets['envs'][0]}.example")
    for name in WORKLOADS:
        for source in container(name).get("envFrom", ()):
            assert source["configMapRef"]["name"] in generated
        for variable in container(name).get("env", ()):
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["name"] == secrets["name"] and reference["key"] in keys


def environment_of(name: str) -> dict[str, str]:
    secrets = env_file(FOLDER / "secrets.env.example")
    files = {one["name"]: one["envs"][0] for one in KUSTOMIZATION["configMapGenerator"]}
    environment: dict[str, str] = {}
    for source in container(name).get("envFrom", ()):
        environment |= env_file(FOLDER / files[source["configMapRef"]["name"]])
    for variable in container(name).get("env", ()):
        value = variable.get("value")
        environment[variable["name"]] = secrets[variable["name"]] if value is None else value
    return environment


def test_every_setting_is_one_that_hone_reads() -> None:
    replicas = WORKLOADS["vllm"]["spec"]["replicas"]
    for name in ("service", "learner", "vllm"):
        settings = settings_of(environment_of(name))
        urls = tuple(f"http://vllm-{number}.vllm:8000" for number in range(replicas))
        assert settings.engine.urls == (urls if name != "vllm" else ())  # a new list would restart who reads it
        assert settings.learner.rank <= settings.engine.max_lora_rank
        if name != "vllm":
            assert settings.store.url == "postgresql+psycopg://hone:PASSWORD@postgres/hone"


def test_each_replica_of_vllm_has_a_name_of_its_own() -> None:
    for name in ("vllm", "postgres"):
        assert WORKLOADS[name]["kind"] == "StatefulSet" and WORKLOADS[name]["spec"]["serviceName"] == name
        assert SERVICES[name]["spec"]["clusterIP"] == "None"


def test_only_one_service_runs_at_a_time() -> None:
    spec = WORKLOADS["service"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_commands_are_ours_and_run_in_images_that_we_build() -> None:
    targets = {"service": "service", "learner": "learner-gpu"}
    for name, target in targets.items():
        parse_command(container(name)["args"])
        assert container(name)["args"] == Dockerfile().command(target)[1:] and "command" not in container(name)
    assert {container(name)["image"] for name in targets} == {one["name"] for one in KUSTOMIZATION["images"]}
    said = (FOLDER / "kustomization.yaml").read_text()
    for one in KUSTOMIZATION["images"]:
        assert one["newName"].rpartition("/")[2] == one["name"] and f"/{one['name']} " in said
    assert set(re.findall(r"--target (\S+)", said)) == set(targets.values())
    (documented,) = re.findall(r"exec deploy/learner -- hone (.*)", said)
    parse_command(shlex.split(documented))


def test_the_engines_read_the_adapters_that_the_others_write_under_one_path() -> None:
    assert Dockerfile().environment("service")["HONE_HOME"] + "/adapters" == ADAPTERS
    for name in ("service", "learner", "vllm"):
        assert mounts(name)[ADAPTERS]["name"] == "adapters"
        assert mounts(name)[ADAPTERS].get("readOnly", False) is (name == "vllm")
        assert mounts(name)["/models"].get("readOnly", False) is (name != "vllm")
        assert environment_of(name)["HF_HOME"] == "/models"
    assert mounts("service")["/home/hone/state"]["name"] == mounts("learner")["/home/hone/state"]["name"] == "state"
    (start,) = (volume for volume in pod("vllm")["spec"]["volumes"] if "configMap" in volume)
    assert container("vllm")["command"] == ["bash", f"{mounts('vllm')['/start']['mountPath']}/start.sh"]
    assert start["configMap"]["name"] == "vllm-start"


def test_probes_ask_what_is_there() -> None:
    routes = {route.path for route in api_description().routes if hasattr(route, "path")}
    for name in WORKLOADS:
        probes = [probe for key, probe in container(name).items() if key.endswith("Probe")]
        assert len(probes) == {"service": 3, "vllm": 3, "postgres": 2, "learner": 0}[name]
        for probe in probes:
            if "httpGet" in probe:
                assert probe["httpGet"]["port"] in ports(name) and probe["httpGet"]["path"] in routes


def test_gpus_go_to_vllm_and_to_the_learner_and_memory_has_a_limit_everywhere() -> None:
    gpus = {name: container(name)["resources"]["limits"].get("nvidia.com/gpu", 0) for name in WORKLOADS}
    assert gpus == {"vllm": 1, "learner": 1, "service": 0, "postgres": 0}
    assert environment_of("vllm")["TENSOR_PARALLEL_SIZE"] == str(gpus["vllm"])
    assert all("memory" in container(name)["resources"]["limits"] for name in WORKLOADS)


def test_nobody_but_the_service_reaches_vllm() -> None:
    assert POLICIES["nobody"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress"],
    }  # the rest is opened one by one
    reached: dict[str, set[str]] = {name: set() for name in WORKLOADS}
    for policy in (one["spec"] for name, one in POLICIES.items() if name != "nobody"):
        (target,) = selected(policy["podSelector"])
        for rule in policy["ingress"]:
            assert all(port["port"] in ports(target) for port in rule["ports"])
            sources = rule.get("from")
            reached[target] |= set.union(*(selected(one["podSelector"]) for one in sources)) if sources else {"anybody"}
    assert reached == {
        "service": {"anybody"},
        "vllm": {"service"},
        "postgres": {"service", "learner"},
        "learner": set(),
    }


def test_no_pod_takes_its_environment_from_the_clusters_services_or_more_rights_than_it_needs() -> None:
    for name in WORKLOADS:
        spec = pod(name)["spec"]
        assert spec["enableServiceLinks"] is False and spec["automountServiceAccountToken"] is False
        assert container(name)["securityContext"]["allowPrivilegeEscalation"] is False
        if name != "vllm":  # its image runs as root
            assert spec["securityContext"]["runAsNonRoot"] is True


def test_with_an_object_store_the_service_and_the_learner_are_told_where_it_is_and_have_its_keys() -> None:
    plain, stored = (build(DEPLOY / name) for name in BUILT)
    settings = settings_of(stored["ConfigMap", "settings"]["data"])
    assert settings.adapters.url == "s3://bucket/hone"
    assert settings == settings_of(
        plain["ConfigMap", "settings"]["data"] | {"HONE_ADAPTERS__URL": str(settings.adapters.url)}
    )
    changed = {key for key, one in stored.items() if one != plain[key]}
    assert stored.keys() == plain.keys()
    assert changed == {("ConfigMap", "settings"), ("Deployment", "service"), ("Deployment", "learner")}
    for name in ("service", "learner"):
        [before], [after] = (
            one["Deployment", name]["spec"]["template"]["spec"]["containers"] for one in (plain, stored)
        )
        added = after["env"][len(before["env"]) :]
        assert [variable["name"] for variable in added] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        assert all(variable["valueFrom"]["secretKeyRef"]["optional"] for variable in added)
    said = (DEPLOY / "kubernetes-object-store" / "kustomization.yaml").read_text()
    assert set(re.findall(r"EXTRAS=(\w+)", said)) == {"s3", "gcs"} <= EXTRAS
    assert set(re.findall(r"--target (\S+)", said)) == {"service", "learner-gpu"}
