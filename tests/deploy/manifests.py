"""What `deploy/kubernetes` says, file by file, before kustomize."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tests.deploy.reading import DEPLOY, env_file

FOLDER = DEPLOY / "kubernetes"
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
