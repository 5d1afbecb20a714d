"""Learn from texts, by any method, without a service: one call from a list of examples to an adapter, or to a reward
model by itself.

    pairs = [{"prompt": "Hello!", "chosen": "Hi.", "rejected": "What?"}]
    learn("dpo", "service/sprout", pairs, "my-adapter")
    rewards = learn_reward("service/sprout", pairs, "my-reward")

It is what a run does when it trains (`learner.backbone_trainer`), on examples that somebody has already, with no store,
no held-out part, no gates and no publishing.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from learner import parallel
from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.batch import Label, Pair, Progress, Scored, Snapshot
from learner.counted import counted
from learner.curate import Curated
from learner.methods import reward
from learner.starting_adapter import write_base
from learner.text_examples import as_snapshot, longest_example, read_examples
from learner.text_rewards import TextRewards
from learner.trainer import (
    LEAST_THUMBS,
    Stage,
    as_labels,
    from_scores,
    from_thumbs,
    pairs_to_learn,
    pairs_to_reward,
    settings_of,
    stages_of,
)
from service.adapters.base_model import check_model
from service.constitution.versions import built_in_version
from service.errors import BadInput
from service.settings import Method, Settings, load_settings
from service.settings.model_name import ADVICE, NOT_NAMED

log = logging.getLogger("hone.learner")


@dataclass(frozen=True)
class LearnedTexts:
    """What became of the examples, prompts alone not counted."""

    stages: tuple[Stage, ...]
    learned_from: int
    too_long: int  # left out, because they don't fit the model's context
    unused: int  # left out, because they are of a kind that the method learns nothing from


def learn(
    method: str,
    model: str | Path,
    data: Sequence[Mapping[str, Any]] | str | Path,
    out: str | Path,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    parent: str | Path | None = None,
    progress: Progress | None = None,
) -> LearnedTexts:
    """Train `model` (a folder or a hub name) by the method of this name, and write the adapter to `out`, a new folder.

    `data`: examples, each with the fields of `TextExample`, or a file of them as JSON lines. `settings`: by section, as
    in hone.toml. `parent`: the adapter to start from, which keeps its rank and alpha. Same seed, same adapter. Returns
    what became of the examples, which the log says too where some are left out. Raises BadInput for no method, no
    model, no file, examples that are none, data that the method learns nothing from, settings that don't go with the
    method, a parent of another base and where there is an `out` already, SettingsError, OSError where nothing can be
    written, and what `BackboneTrainer` does.
    """
    if method not in get_args(Method):
        raise BadInput(f"There is no method {method!r}.", f"Choose one of {', '.join(get_args(Method))}.")
    _check_names(model, out)
    examples, tell = read_examples(data), progress or (lambda *_: None)
    with tempfile.TemporaryDirectory() as home:
        chosen = settings_of(method, _settings(model, settings, Path(home)))
        check_model(chosen.model_path)
        if chosen.learner.anchor not in ("base", "parent"):
            raise BadInput(
                f"There is no {chosen.learner.anchor} here, which learner.anchor names: versions are a service's.",
                "Hand the adapter in as parent, and set learner.anchor to parent.",
            )
        if parent is None and chosen.learner.anchor == "parent":
            log.warning("learner.anchor is parent, and no parent was given: the policy is held to the base.")
        room = longest_example(chosen.model_path)
        texts, too_long = as_snapshot(examples, chosen.model_path, room)
        stages = stages_of(method, texts, chosen.learner.preferences)
        given = sum(bool(one.replies) for one in examples)
        learned = _learned(method, stages, texts, given, too_long, room)
        start = Path(parent) if parent is not None else None
        trainer = BackboneTrainer(chosen, start, anchor=start if chosen.learner.anchor == "parent" else None)
        lessons = Curated(texts, Snapshot(), {}, built_in_version())
        lessons = trainer.write(method, lessons, Path(home), tell)
        trainer.train(stages, lessons, Path(home) / "checkpoint", tell)
        trainer.save(Path(out), lessons)
        write_base(Path(out), chosen.model_path, chosen.learner)
    return learned


def learn_reward(
    model: str | Path,
    data: Sequence[Mapping[str, Any]] | str | Path,
    out: str | Path,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> TextRewards:
    """Fit a reward model on `model` (a folder or a hub name), write it to `out`, a new folder, and return it.

    `data` and `settings`: as for `learn`; it is the reward model that `ppo` would follow. Same seed, same rewards. The
    log says where examples are left out. Raises what `learn` does, but for what concerns methods and parents.
    """
    _check_names(model, out)
    examples = read_examples(data)
    with tempfile.TemporaryDirectory() as home:
        chosen = _settings(model, settings, Path(home))
        check_model(chosen.model_path)
    room = longest_example(chosen.model_path)
    texts, too_long = as_snapshot(examples, chosen.model_path, room)
    given = sum(bool(one.replies) for one in examples)
    _learned("a reward model", stages_of("ppo", texts), texts, given, too_long, room)
    torch.set_num_threads(chosen.learner.training_threads)
    backbone = Backbone.load(chosen.model_path, chosen.learner, device=parallel.device())
    pairs, tell = pairs_to_reward(texts), progress or (lambda *_: None)
    rewards = TextRewards(
        backbone, reward.fit(backbone, pairs, texts.labels, chosen.learner, tell, texts.scored), chosen
    )
    rewards.save(out)
    return rewards


def _check_names(model: str | Path, out: str | Path) -> None:
    """Raises BadInput for no model and where there is an `out` already."""
    if not str(model).strip():
        raise BadInput(NOT_NAMED, ADVICE)
    if Path(out).exists():
        raise BadInput(f"There is something at {out} already.", "Name a folder that isn't there yet.")


def _settings(model: str | Path, settings: Mapping[str, Mapping[str, Any]] | None, home: Path) -> Settings:
    sections = {name: dict(section) for name, section in (settings or {}).items()}
    sections["engine"] = sections.get("engine", {}) | {"model": str(model)}
    return load_settings(home, sections, environment={})


def _learned(
    method: str, stages: tuple[Stage, ...], texts: Snapshot, given: int, too_long: int, room: int | None
) -> LearnedTexts:
    """`given`: how many examples there are, prompts alone not counted. Raises BadInput where the method learns nothing
    from what fits."""
    if not stages:
        wanted = _what_single_replies_lack(method, texts) or "See docs/learning.md."
        why = f"{_examples_are(too_long)} longer than the model's context of {room} tokens." if too_long else ""
        raise BadInput(
            f"There is nothing in the data that {method} learns from.",
            f"{why} Shorten them, or take a model with a longer context." if why else wanted,
        )
    labels = as_labels(texts)
    if "kto" in stages and len({label.desirable for label in labels}) < 2:
        called = "good" if labels[0].desirable else "bad"
        raise BadInput(
            f"Every reply is called {called}, and kto tells good ones from bad ones.",
            f"Add replies with good = {str(called == 'bad').lower()}, or pairs.",
        )
    said: list[Pair | Label | Scored] = [*pairs_to_learn(stages, texts)]
    said += [*(texts.labels if from_thumbs(stages) else ()), *(texts.scored if from_scores(stages) else ())]
    names = {name for one in said for name in one.feedback_ids}
    used = len(names) + len(texts.demonstrations) * ("sft" in stages)
    unused = given - too_long - used
    if too_long:
        log.warning("%s left out: longer than the model's context of %s tokens.", _examples_are(too_long), room)
    if unused:
        log.warning("%s left out: of a kind that %s doesn't learn from.", _examples_are(unused), method)
    return LearnedTexts(stages, used, too_long, unused)


def _examples_are(count: int) -> str:
    return counted(count, "example is", "examples are")


def _what_single_replies_lack(method: str, texts: Snapshot) -> str:
    """For a method that learns nothing from them to learn; empty where there are none, or it never does."""
    found, good = list[str](), sum(label.desirable for label in texts.labels)
    above, below = (sum(sign * one.points > 0 for one in texts.scored) for sign in (1, -1))
    if texts.labels and method not in ("sft", "dpo"):
        found.append(
            f"at least {LEAST_THUMBS} good and {LEAST_THUMBS} bad replies (there are {good} good and "
            f"{len(texts.labels) - good} bad)"
        )
    if texts.scored and method not in ("auto", "sft", "dpo", "kto"):
        found.append(
            f"at least {LEAST_THUMBS} scored above and {LEAST_THUMBS} below what is usual in the data (there are "
            f"{above} above and {below} below)"
        )
    others = "corrections, pairs" if method == "auto" else "pairs"
    return f"It takes {others}, or {', or '.join(found)}." if found else ""
