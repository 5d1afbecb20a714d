"""`deploy/kubernetes` as a whole: valid by Kubernetes' own schemas, and built.

It is built twice: by `tests.deploy.kustomize` wherever the tests run, and by kubectl where that is installed, which has
to come to the same.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.deploy.kustomize import Unbuildable, build, dangling
from tests.deploy.manifests import Object, objects
from tests.deploy.reading import DEPLOY, EXTRAS, settings_of
from tests.fixtures.waiting import PATIENCE

BUILT = ("kubernetes", "kubernetes-object-store")
KUBERNETES = "1.37"


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
