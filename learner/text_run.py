"""The folder of a training on texts: its metrics as they come, curves, samples, and what it goes on from after a kill.

    with text_run("my-run") as folder:
        run_id = begin(folder, recipe)

Without a name it is a temporary one. One that is begun belongs to one recipe: method, settings, model, parent, data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from learner.batch import Snapshot
from learner.loading import ADAPTER_WEIGHTS, ANOTHER
from learner.recipe import recipe_of
from learner.run_folder import RunFolder
from learner.run_lock import LOCK, alone_in
from service.adapters.fingerprint import fingerprint_if_known
from service.constitution.versions import built_in_version
from service.errors import AdapterBroken, BadInput
from service.settings import Settings
from service.store.identifiers import new_id

RUN_ID = "run_id"
"""In the recipe: the name by which trackers know the run."""
BEFORE_THE_RECIPE = (LOCK, "recipe.json.partial")
"""All that a run can have left that was killed before its recipe was written."""


@contextmanager
def text_run(folder: str | Path | None) -> Iterator[RunFolder]:
    """The folder, made if it isn't there, and nobody else's as long as the block lasts; None: a temporary one. Raises
    BadInput where it is another process's, or holds something that is no such run."""
    if folder is None:
        with tempfile.TemporaryDirectory() as home:
            yield RunFolder(Path(home))
        return
    run = RunFolder(Path(folder).absolute())
    is_other = run.path.exists() and not run.path.is_dir()
    if is_other or (run.path.exists() and run.recipe is None and _holds_something(run.path)):
        raise BadInput(f"{folder} holds something else than a run.", "Name a folder that isn't there yet.")
    run.path.mkdir(parents=True, exist_ok=True)

    def is_taken() -> None:
        raise BadInput(f"Another process trains in {folder}.", "Wait until it is over, or name another folder.")

    with alone_in(run.path, "", is_taken):
        yield run


def recipe_on_texts(method: str, settings: Settings, texts: Snapshot, parent: Path | None) -> dict[str, Any]:
    """Whatever decides the adapter. Raises AdapterBroken where the parent's weights can't be read."""
    base = fingerprint_if_known(settings.model_path)
    try:
        start = sha256((parent / ADAPTER_WEIGHTS).read_bytes()).hexdigest() if parent is not None else None
    except OSError as error:
        raise AdapterBroken(f"{parent} holds no adapter that can be read: {error}.", ANOTHER) from error
    known = {"method": method, "data": sha256(repr(texts).encode()).hexdigest(), "parent": start}
    principles = {"constitution_in_effect": built_in_version().constitution.sha256}
    return recipe_of(settings, base, settings.learner.anchor) | known | principles


def begin(folder: RunFolder, recipe: Mapping[str, Any]) -> str:
    """Begin a run, or go on with it: its name. Raises BadInput where the one that is there has another recipe."""
    before = folder.recipe
    if before is None:
        run_id = new_id("run")
        folder.write_recipe({**recipe, RUN_ID: run_id})
        return run_id
    known = {name: value for name, value in before.items() if name != RUN_ID}
    if known != dict(recipe):
        others = sorted(name for name in {*known, *recipe} if known.get(name) != recipe.get(name))
        raise BadInput(
            f"{folder.path} holds a run with another recipe ({', '.join(others)}).",
            "Go on with it by the same call as before, or name another folder.",
        )
    return str(before[RUN_ID])


def _holds_something(folder: Path) -> bool:
    return any(path.name not in BEFORE_THE_RECIPE for path in folder.iterdir())
