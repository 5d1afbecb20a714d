"""Learn from texts, by any method, without a service: one call from a list of examples to an adapter, or to a reward
model by itself.

    pairs = [{"prompt": "Hello!", "chosen": "Hi.", "rejected": "What?"}]
    learn("dpo", "sprout", pairs, "my-adapter")
    rewards = learn_reward("sprout", pairs, "my-reward")

It is what a run does when it trains (`learner.backbone_trainer`), on examples that somebody has already, with no store,
no held-out part, no gates and no publishing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch

from learner import parallel
from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.batch import Label, Pair, Progress, Scored, Snapshot
from learner.counted import counted
from learner.curate import Curated
from learner.curves import draw
from learner.loading import on_a_sound_base
from learner.methods import reward
from learner.metrics import read_metrics
from learner.progress_bar import ProgressBar
from learner.run_folder import RunFolder
from learner.run_record import RunRecord
from learner.stage_checkpoint import StageCheckpoint, fingerprint
from learner.starting_adapter import of_no_known_base, write_base
from learner.text_examples import TextExample, as_snapshot, longest_example, read_examples
from learner.text_kinds import of_ties, what_is_wanted, what_single_replies_lack, what_there_is
from learner.text_out import check_out, writing_out
from learner.text_rewards import TextRewards
from learner.text_run import begin, recipe_on_texts, text_run
from learner.text_settings import check_engine_is_named, check_versions, settings_on_texts
from learner.trackers import require_trackers
from learner.trainer import (
    BY_REWARD,
    Stage,
    from_scores,
    from_thumbs,
    one_side,
    pairs_to_learn,
    pairs_to_reward,
    settings_of,
    stages_of,
)
from service.adapters.fingerprint import fingerprint_if_known
from service.constitution.versions import built_in_version
from service.errors import BadInput
from service.settings import Method, Settings
from service.settings.model_name import ADVICE, NOT_NAMED

log = logging.getLogger("hone.learner")


@dataclass(frozen=True)
class LearnedTexts:
    """What became of the examples, prompts alone not counted."""

    stages: tuple[Stage, ...]
    learned_from: int
    too_long: int  # left out, because they don't fit the model's context
    unused: int  # left out, because they are of a kind that the method learns nothing from
    skipped: int = 0  # steps without a finite loss
    remarks: tuple[str, ...] = field(default=(), compare=False)  # what the log warned of


def learn(
    method: str,
    model: str | Path,
    data: Sequence[Mapping[str, Any]] | str | Path,
    out: str | Path,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    parent: str | Path | None = None,
    progress: Progress | None = None,
    run_folder: str | Path | None = None,
) -> LearnedTexts:
    """Train `model` ("sprout", a folder or a hub name) by the method of this name, and write the adapter to a new
    folder, `out`.

    `data`: examples, each with the fields of `TextExample`, or a file of them as JSON lines. `settings`: by section, as
    in hone.toml, those of NOT_FROM_PYTHON apart. `parent`: the adapter to start from, which keeps its rank and alpha.
    `progress`: hears every step; without it a bar in the terminal shows them. `run_folder`: where the run keeps its
    metrics, curves, samples and checkpoints; after a kill the same call goes on from there. Same seed, same adapter.
    Returns what became of the examples, which the log says too where some are left out. Raises BadInput for no method,
    no model, no file, examples that are none, data that the method learns nothing from, settings that don't go with the
    method, a parent of another base, a `run_folder` of another run and an `out` that is there already or can't be made,
    SettingsError, StoreError where `out` can't be written, OSError where `run_folder` can't, and what `BackboneTrainer`
    does.
    """
    if method not in get_args(Method):
        instead = "`learn_reward` fits a reward model by itself. " if method == "reward" else ""
        raise BadInput(f"There is no method {method!r}.", f"{instead}Choose one of {', '.join(get_args(Method))}.")
    _check_names(model, out)
    examples, start = read_examples(data), Path(parent) if parent is not None else None
    with text_run(run_folder) as folder:
        chosen = settings_of(method, settings_on_texts(model, settings, folder.path))
        check_versions(chosen)
        require_trackers(chosen.learner.trackers)
        if parent is None and chosen.learner.anchor == "parent":
            log.warning("learner.anchor is parent, and no parent was given: the policy is held to the base.")
        room = longest_example(chosen.model_path)
        texts, too_long = as_snapshot(examples, chosen.model_path, room)
        stages = stages_of(method, texts, chosen.learner.preferences)
        learned = _learned(method, stages, texts, examples, too_long, room)
        if any(stage in BY_REWARD for stage in stages):
            check_engine_is_named(chosen)
        run_id = begin(folder, recipe_on_texts(method, chosen, texts, start))
        with _told(progress, chosen, run_id, folder) as tell:
            trainer = BackboneTrainer(chosen, start, anchor=start if chosen.learner.anchor == "parent" else None)
            lessons = Curated(texts, Snapshot(), {}, built_in_version())
            lessons = trainer.write(method, lessons, folder.path, tell)
            trainer.train(stages, lessons, folder.checkpoint, tell)
        with writing_out(out, run_folder) as unfinished:
            trainer.save(unfinished, lessons)
            write_base(unfinished, chosen.model_path, chosen.learner)
            if run_folder is not None:
                draw(read_metrics(folder.metrics), folder.curves)
                folder.write_samples(trainer.samples(texts.prompts))
    of_parent = of_no_known_base(start, chosen.model_path) if start is not None else ""
    remarks = (*filter(None, [of_parent]), *trainer.trained.remarks)
    return replace(learned, skipped=sum(trainer.trained.skipped.values()), remarks=remarks)


def learn_reward(
    model: str | Path,
    data: Sequence[Mapping[str, Any]] | str | Path,
    out: str | Path,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
    run_folder: str | Path | None = None,
) -> TextRewards:
    """Fit a reward model on `model` ("sprout", a folder or a hub name), write it to `out`, a new folder, and return it.

    `data` and `settings`: as for `learn`; it is the reward model that `ppo` would follow. `run_folder`: where the fit
    keeps its metrics, curves and checkpoint; after a kill the same call goes on from there. Same seed, same rewards.
    The log says where examples are left out. Raises what `learn` does, but for what concerns methods and parents.
    """
    _check_names(model, out)
    examples = read_examples(data)
    with text_run(run_folder) as folder:
        chosen = settings_on_texts(model, settings, folder.path)
        require_trackers(chosen.learner.trackers)
        room = longest_example(chosen.model_path)
        texts, too_long = as_snapshot(examples, chosen.model_path, room)
        _learned("a reward model", stages_of("ppo", texts), texts, examples, too_long, room)
        run_id = begin(folder, recipe := recipe_on_texts(reward.PHASE, chosen, texts, None))
        torch.set_num_threads(chosen.learner.training_threads)
        backbone = Backbone.load(chosen.model_path, chosen.learner, device=parallel.device())
        checkpoint = _checkpoint_of_reward(folder, recipe, chosen)
        with _told(progress, chosen, run_id, folder) as tell, on_a_sound_base(chosen.model_path):
            fitted = reward.fit(
                backbone, pairs_to_reward(texts), texts.labels, chosen.learner, tell, texts.scored, checkpoint
            )
        rewards = TextRewards(backbone, fitted, chosen)
        with writing_out(out, run_folder) as unfinished:
            rewards.save(unfinished)
            if run_folder is not None:
                draw(read_metrics(folder.metrics), folder.curves)
    return rewards


def _checkpoint_of_reward(folder: RunFolder, recipe: Mapping[str, Any], settings: Settings) -> StageCheckpoint:
    """How far the fit of this recipe is, if it can be said on which base it is."""
    if fingerprint_if_known(settings.model_path) is None:
        return StageCheckpoint()
    folder.checkpoint.mkdir(exist_ok=True)
    path, of = folder.checkpoint / f"{reward.PHASE}.unfinished", fingerprint(sorted(recipe.items()), {})
    return StageCheckpoint(path, of, 60 * settings.learner.checkpoint_minutes)


@contextmanager
def _told(progress: Progress | None, settings: Settings, run_id: str, folder: RunFolder) -> Iterator[Progress]:
    """Whoever is to hear of each step: the run's own record, and `progress`, or else a bar, where there is a terminal
    to show it in."""
    record, ended_well = RunRecord(settings.learner, run_id, folder), False
    with ProgressBar(quiet=progress is not None or not sys.stderr.isatty()) as bar:
        shown = progress or bar.show

        def tell(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
            record.add(phase, step, steps, metrics)
            shown(phase, step, steps, metrics)

        try:
            yield tell
            ended_well = True
        finally:
            record.close(ended_well)


def _check_names(model: str | Path, out: str | Path) -> None:
    """Raises BadInput for no model, and for an `out` that is there already or can't be made."""
    if not str(model).strip():
        raise BadInput(NOT_NAMED, ADVICE)
    check_out(out)


def _learned(
    method: str, stages: tuple[Stage, ...], texts: Snapshot, examples: Sequence[TextExample], too_long: int,
    room: int | None,
) -> LearnedTexts:  # fmt: skip
    """Raises BadInput where the method learns nothing from what fits, prompts alone not counted."""
    given = sum(bool(one.replies) for one in examples)
    if not stages:
        wanted = what_single_replies_lack(method, texts) or what_is_wanted(method)
        why = f"{_examples_are(too_long)} longer than the model's context of {room} tokens." if too_long else ""
        if method == "kto" and (side := one_side(texts)):
            raise BadInput(
                f"Every reply is called {side}, and kto tells good ones from bad ones.",
                f"Add replies with good = {str(side == 'bad').lower()}, or pairs. {why}".strip(),
            )
        raise BadInput(
            f"There is nothing in the data that {method} learns from: it holds {what_there_is(examples)}.",
            f"{why} Shorten them, or take a model with a longer context."
            if why
            else f"{of_ties(method, examples)}{wanted}",
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
