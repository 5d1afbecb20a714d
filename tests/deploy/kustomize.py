"""What `kubectl kustomize` makes of our folders, so that a machine without kubectl tests that they can be built, too.

It knows what ours use: resources that are files or folders, generated ConfigMaps and Secrets (without the hash that
kustomize appends to their names) and merging into them, JSON patches, images, the namespace. Anything else is refused,
and so is what kustomize itself lets pass: a patch that changes nothing, an image that nobody runs.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.reading import env_file

Object = dict[str, Any]
Objects = dict[tuple[str, str], Object]
"""By kind and name."""

FILE = "kustomization.yaml"
GENERATORS = {"configMapGenerator": "ConfigMap", "secretGenerator": "Secret"}
KNOWN = {"apiVersion", "kind", "namespace", "resources", "images", "patches", *GENERATORS}


class Unbuildable(Exception):
    """What is wrong with a kustomization, and in which."""


def build(folder: Path, within: tuple[Path, ...] = ()) -> Objects:
    """Every object that the folder comes to. `within`: the folders whose resource it is. Raises Unbuildable."""
    folder = folder.resolve()
    if not (folder / FILE).is_file():
        raise Unbuildable(f"{folder} has no {FILE}")
    if any(one.is_relative_to(folder) for one in within):
        raise Unbuildable(f"{within[-1] / FILE}: {folder} is round a folder that it is a resource of")
    said = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    try:
        if strange := said.keys() - KNOWN:
            raise Unbuildable(f"nothing here knows {', '.join(sorted(strange))}")
        return _built(folder, said, within)
    except Unbuildable as error:
        raise Unbuildable(f"{folder / FILE}: {error}") from error


def _built(folder: Path, said: Mapping[str, Any], within: tuple[Path, ...]) -> Objects:
    found: Objects = {}
    for name in said.get("resources", ()):
        is_folder = (folder / name).is_dir()
        more = build(folder / name, (*within, folder)) if is_folder else _objects(_file(folder, name))
        if twice := found.keys() & more.keys():
            raise Unbuildable(f"{name} has once more {twice}")
        found |= more
    for field, kind in GENERATORS.items():
        for generator in said.get(field, ()):
            _generate(found, folder, kind, generator)
    for patch in said.get("patches", ()):
        _patch(found, patch["target"], yaml.safe_load(_file(folder, patch["path"]).read_text(encoding="utf-8")))
    for image in said.get("images", ()):
        _name_image(found, image)
    for (kind, _), one in found.items():
        if kind != "Namespace" and "namespace" in said:
            one["metadata"]["namespace"] = said["namespace"]
    return found


def _file(folder: Path, name: str) -> Path:
    """A file in the folder; what everybody makes for themselves stands there as an example."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise Unbuildable(f"{name} is outside of the folder")
    for one in (path, path.with_name(f"{path.name}.example")):
        if one.is_file():
            return one
    raise Unbuildable(f"there is no {name}")


def _objects(path: Path) -> Objects:
    read = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]
    found = {(one["kind"], one["metadata"]["name"]): one for one in read}
    if len(found) < len(read):
        raise Unbuildable(f"{path.name} has an object twice")
    return found


def _generate(found: Objects, folder: Path, kind: str, generator: Mapping[str, Any]) -> None:
    if strange := generator.keys() - {"name", "behavior", "envs", "files"}:
        raise Unbuildable(f"nothing here knows {', '.join(sorted(strange))} of a generator")
    data: dict[str, str] = {}
    for name in generator.get("envs", ()):
        data |= env_file(_file(folder, name))
    data |= {name: _file(folder, name).read_text(encoding="utf-8") for name in generator.get("files", ())}
    if kind == "Secret":
        data = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    key = (kind, generator["name"])
    if (generator.get("behavior", "create") == "merge") is not (key in found):
        raise Unbuildable(f"{kind} {generator['name']} is there already, or not there to be merged into")
    if key not in found:
        found[key] = {"apiVersion": "v1", "kind": kind, "metadata": {"name": generator["name"]}, "data": {}}
        found[key] |= {"type": "Opaque"} if kind == "Secret" else {}
    found[key]["data"] |= data


def _patch(found: Objects, target: Mapping[str, str], operations: list[Mapping[str, Any]]) -> None:
    """`target`: a kind, and a regular expression for the whole of a name."""
    chosen = [
        one for (kind, name), one in found.items() if kind == target["kind"] and re.fullmatch(target["name"], name)
    ]
    if not chosen:
        raise Unbuildable(f"there is no {target['kind']} {target['name']} to patch")
    for one in chosen:
        for operation in operations:
            _apply(one, operation)


def _apply(one: Object, operation: Mapping[str, Any]) -> None:
    """RFC 6902's `add` and `replace`."""
    *parents, last = operation["path"].removeprefix("/").split("/")
    place: Any = one
    try:
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        if operation["op"] == "add" and isinstance(place, list):
            place.insert(len(place) if last == "-" else int(last), operation["value"])
        elif operation["op"] == "add" or last in place:
            place[last] = operation["value"]
        else:
            raise KeyError(last)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        name = f"{one['kind']} {one['metadata']['name']}"
        raise Unbuildable(f"{name} has no place for {operation['op']} {operation['path']}") from error


def _name_image(found: Objects, image: Mapping[str, str]) -> None:
    containers = [one for one in everything(found) if one.get("image") == image["name"]]
    if not containers:
        raise Unbuildable(f"nothing runs the image {image['name']}")
    for one in containers:
        one["image"] = f"{image['newName']}:{image['newTag']}"


def everything(part: Any) -> Iterator[Object]:
    """Every mapping in it, however deep."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from everything(inner)


def dangling(found: Objects) -> Iterator[str]:
    """What a pod asks for and nothing provides: a ConfigMap, a Secret or a key of one, a volume."""
    for one in everything(list(found.values())):
        for field, kind in (("configMapRef", "ConfigMap"), ("configMap", "ConfigMap"), ("secretKeyRef", "Secret")):
            if isinstance(asked := one.get(field), dict) and "name" in asked:
                provided = found.get((kind, asked["name"]))
                is_there = provided is not None and asked.get("key") in (None, *provided["data"])
                if not is_there and not (provided is not None and asked.get("optional")):
                    yield f"{kind} {asked['name']} {asked.get('key', '')}".strip()
        claim = one.get("persistentVolumeClaim")
        if claim is not None and ("PersistentVolumeClaim", claim["claimName"]) not in found:
            yield f"PersistentVolumeClaim {claim['claimName']}"
