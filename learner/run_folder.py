"""The folder that a run leaves behind: settings, recipe, snapshot, metrics by step, curves, samples, report, log.

Every file but the log and the metrics, which grow, is written under another name, flushed and renamed, so that it is
there whole or not at all; that is what lets a killed run see how far it came. While a run trains there are also
`checkpoint/` and, from the end of training on, `adapter/`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from learner.constitution.named_judge import told
from service.settings import Settings

TOLD = ".told"
"""How the names of files end that say which steps a tracker was told."""


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @classmethod
    def of(cls, settings: Settings, run_id: str) -> RunFolder:
        """The folder of a run, made if it isn't there."""
        folder = settings.runs_folder / run_id
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @property
    def snapshot(self) -> Path:
        return self.path / "snapshot.jsonl"

    @property
    def constitution(self) -> Path:
        """The constitution that the run goes by."""
        return self.path / "constitution.toml"

    @property
    def written(self) -> Path:
        """What the model wrote for the run (`learner.constitution.examples`); not in every run."""
        return self.path / "constitution.jsonl"

    @property
    def frontier(self) -> Path:
        """Harmlessness against helpfulness, as a picture."""
        return self.path / "frontier.png"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """The metrics for TensorBoard, a folder for each phase."""
        return self.path / "tensorboard"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """Where the methods keep what they need to go on after a kill."""
        return self.path / "checkpoint"

    @property
    def adapter(self) -> Path:
        """The trained adapter; there only when training is over."""
        return self.path / "adapter"

    @property
    def recipe(self) -> dict[str, Any] | None:
        """What all that is here was made with; None before anything was."""
        try:
            recipe: dict[str, Any] = json.loads((self.path / "recipe.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return recipe

    def write_recipe(self, recipe: Mapping[str, Any]) -> None:
        write_whole(self.path / "recipe.json", json.dumps(recipe, indent=2) + "\n")

    def start_over(self) -> None:
        """Remove all that was made so far, the snapshot first."""
        made = (self.snapshot, self.constitution, self.written, self.written.with_suffix(".unfinished"), self.metrics,
                self.curves, self.report, self.frontier, self.path / "samples.jsonl")  # fmt: skip
        for path in (*made, *self.path.glob(f"*{TOLD}")):
            path.unlink(missing_ok=True)
        for folder in (self.checkpoint, self.adapter, self.events):
            shutil.rmtree(folder, ignore_errors=True)

    def write_settings(self, settings: Settings) -> None:
        """The resolved settings, without the passwords of the database and of the judge."""
        plain = settings.model_dump(mode="json")
        plain["constitution"]["judge"] = told(settings.constitution.judge)
        if settings.store.url:
            plain["store"]["url"] = make_url(settings.store.url).render_as_string(hide_password=True)
        write_whole(self.path / "settings.json", json.dumps(plain, indent=2) + "\n")

    def write_report(self, report: Mapping[str, Any]) -> None:
        """report.json, and the samples that it holds as samples.jsonl."""
        self.write_samples(report.get("samples", ()))
        plain = {name: value for name, value in report.items() if name != "samples"}
        write_whole(self.report, json.dumps(finite(plain), indent=2, ensure_ascii=False) + "\n")

    def write_samples(self, samples: Sequence[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(finite(sample), ensure_ascii=False) + "\n" for sample in samples)
        write_whole(self.path / "samples.jsonl", lines)

    def read_report(self) -> dict[str, Any] | None:
        """None when the run was not evaluated yet."""
        try:
            report: dict[str, Any] = json.loads(self.report.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return report


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all, even after a power cut."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # a full disk has no space for what is of no use either
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value
