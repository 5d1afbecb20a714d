"""`deploy/kubernetes`: what one object names, another one is, and each has what it needs and no more."""

from __future__ import annotations

import re
import shlex

from service.app import api_description
from tests.deploy.manifests import (
    FOLDER,
    KUSTOMIZATION,
    POLICIES,
    SERVICES,
    WORKLOADS,
    container,
    environment_of,
    mounts,
    of_kind,
    pod,
    ports,
    selected,
)
from tests.deploy.reading import Dockerfile, env_file, parse_command, settings_of

ADAPTERS = "/home/hone/state/adapters"


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
