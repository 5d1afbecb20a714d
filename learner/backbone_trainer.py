"""The part of a cycle that computes: the methods one after another on one backbone, then report, gates and probes.

Corrections are learned first (supervised), then preferences or single thumbs, as in InstructGPT (arXiv 2203.02155);
what the second moved away from the corrections is put right at the end. All continue the adapter that is live and are
held to one anchor, the bare base or what `learner.anchor` says. After each stage the weights are kept in the run's
checkpoint folder, where a killed run goes on; inside a stage, now and then, so is all that it has so far. Where several
processes train (`learner.parallel`) each has a trainer, and the first alone reads and writes files and asks the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file

from learner import parallel
from learner.backbone import Backbone
from learner.batch import Demonstration, Label, Pair, Progress, Scored, Snapshot, TokenIds, renamed
from learner.constitution.writing import write_or_go_on
from learner.corrections import corrections_to_learn
from learner.curate import Curated
from learner.engine_sampler import EngineSampler
from learner.evaluate.constitution import by_constitution
from learner.evaluate.gates import verdict
from learner.evaluate.report import evaluate
from learner.loading import ADAPTER_WEIGHTS, on_a_sound_base
from learner.methods import kto, pairs_dpo, preference, rl_cai, rlhf, sft, sl_cai
from learner.methods.anchor_scores import AnchorScores, shared_scores
from learner.methods.optimizer import within_length
from learner.methods.preference_model import PreferenceModel, fit_preferences
from learner.methods.self_asked import neighbours
from learner.methods.served_judge import fit_judge
from learner.passing import clear_leftovers
from learner.probes import choose_probes
from learner.prompts import FEWEST_PROMPTS, FEWEST_RETAINED, held_out_prompts, training_prompts
from learner.recipe import WHEN_AND_HOW
from learner.rollout_engines import Engines, check_engines
from learner.run_folder import RunFolder
from learner.sampler import InProcessSampler, Sampler, SharedSampler
from learner.stage_checkpoint import StageCheckpoint, fingerprint, keep_result, read_result
from learner.text_samples import samples_of
from learner.trained import Result, Trained
from learner.trainer import (
    BY_REWARD,
    Keep,
    Stage,
    as_labels,
    from_pairs,
    from_scores,
    from_thumbs,
    judgements_of_taste,
    learn_taste,
    pairs_to_reward,
    stages_of,
)
from learner.weights_file import flush
from service.adapters.fingerprint import fingerprint_if_known
from service.adapters.manifest import JUDGE
from service.settings import Settings

log = logging.getLogger("hone.learner")

ANCHOR_SCORES, SUSPECTS = "anchor.safetensors", "suspects.json"
"""In the checkpoint folder."""


class BackboneTrainer:
    """See the module's docstring. One for each attempt at a run."""

    def __init__(
        self, settings: Settings, parent: Path | None, keep: Keep = "policy", run_id: str = "",
        anchor: Path | None = None,
    ) -> None:  # fmt: skip
        torch.set_num_threads(settings.learner.training_threads)
        self._all, self._settings, self._context = settings, settings.learner, settings.engine.max_model_len
        self._by_reward: dict[str, rlhf.Optimiser] = {
            stage: settings.raft if stage == "raft" else settings.ppo for stage in BY_REWARD
        }
        self._keep: Keep = keep
        self._model = settings.model_path
        self._backbone = Backbone.load(settings.model_path, settings.learner, parent, anchor, parallel.device())
        self._anchor = "" if anchor is None else sha256((anchor / ADAPTER_WEIGHTS).read_bytes()).hexdigest()
        self._engines, self._run_id = Engines.of(settings), run_id
        self.trained = Trained()

    def write(self, method: str, lessons: Curated, folder: Path, progress: Progress) -> Curated:
        """The lessons with what the model writes of them for `method`. Raises TrainingFailed, as where a judge does."""
        with on_a_sound_base(self._model):
            return write_or_go_on(self._backbone, self._all, method, lessons, RunFolder(folder).written, progress)

    def train(self, stages: tuple[Stage, ...], lessons: Curated, checkpoint: Path, progress: Progress) -> None:
        """Train the policy in place. Raises TrainingFailed, and EngineUnavailable when the engine that samples stays
        away; what `progress` raises comes through."""
        checkpoint.mkdir(exist_ok=True)
        self.trained = Trained.read(checkpoint)
        anchor = self._anchor_scores(checkpoint, lessons.train.hash)
        if parallel.is_first():
            clear_leftovers(self._engines)
        sampler = self._sampler(checkpoint)
        self._look_ahead(stages, lessons, sampler)
        plan: list[tuple[str, Stage]] = [(stage, stage) for stage in stages]
        if "sft" in stages and learn_taste(stages):
            plan.append(("sft again", "sft"))
        corrections = corrections_to_learn(self._backbone, lessons.train) if "sft" in stages else []
        for number, (name, stage) in enumerate(plan):
            kept = checkpoint / f"{number}-{name.replace(' ', '-')}.safetensors"
            if state := parallel.from_first(partial(read_result, kept)):
                self._backbone.load_adapter_state(state)
                continue
            prompts = training_prompts(
                self._backbone.tokenizer, lessons, FEWEST_RETAINED if stage == "sft" else FEWEST_PROMPTS
            )
            tell = progress if name == stage else renamed(name, progress)
            inside = self._inside(kept, stage, lessons, prompts)
            with on_a_sound_base(self._model):
                result = self._stage(stage, lessons, corrections, prompts, anchor, tell, sampler, inside)
                self.trained.add(name, result)
            state = self._backbone.adapter_state()
            parallel.check_alike(state)
            if parallel.is_first():
                with suppress(OSError):
                    self.trained.write(checkpoint)
                if keep_result(state, kept):
                    inside.remove()
        if anchor.found:
            log.info("Examples whose numbers by the anchor were found on disk: %d.", anchor.found)

    def save(self, folder: Path, lessons: Curated) -> None:
        """Write the trained adapter, and the judge that goes with it where people compared replies; flush both."""
        self._backbone.save_adapter(folder)
        pairs, _ = within_length(lessons.train.pairs, self._backbone.max_length)
        if judgements_of_taste(lessons.train) and (judge := fit_judge(self._backbone, pairs)):
            (folder / JUDGE).write_bytes(judge.encoded())
        self.trained.write(folder)
        for file in folder.iterdir():
            flush(file)

    def restore(self, folder: Path) -> None:
        """Go on with an adapter that an earlier attempt trained."""
        self.trained = Trained.read(folder)
        self._backbone.load_adapter_state(parallel.from_first(lambda: load_file(folder / ADAPTER_WEIGHTS)))

    def evaluate(self, stages: tuple[Stage, ...], lessons: Curated, progress: Progress) -> dict[str, Any]:
        """The report on what these stages trained, with the outcome of every gate."""
        prompts, standing = held_out_prompts(self._backbone.tokenizer, lessons)
        judge = self._fitted_judge(lessons.train)
        corrected = sorted({one.prompt_token_ids for one in lessons.train.demonstrations})
        seed = self._settings.seed
        taste = judgements_of_taste(lessons.held_out, lessons.train)
        held_out = replace(lessons.held_out, pairs=tuple(taste))
        asked = [*prompts, *standing]
        like_them = neighbours(self._backbone, corrected, asked, Random(seed), seed, kept_back=True)
        taught = corrections_to_learn(self._backbone, lessons.train) if "sft" in stages else ()
        report = evaluate(
            self._backbone, held_out, prompts, self._settings, judge, progress,
            neighbours=like_them, standing=standing, taught=taught,
            preferences=from_pairs(stages), labels=lessons.held_out.labels if from_thumbs(stages) else (),
            scored=lessons.held_out.scored if from_scores(stages) and lessons.train.scored else None,
        )  # fmt: skip
        report = replace(report, constitution=by_constitution(self._backbone, self._all, lessons, progress))
        gates = verdict(report, self._settings).gates
        return report.to_json() | {"gates": [vars(gate) for gate in gates], "training": self.trained.to_json()}

    def samples(self, prompts: Sequence[TokenIds]) -> list[dict[str, str]]:
        """What the policy says to a few of these, beside what the base does."""
        return samples_of(self._backbone, prompts)

    def probes(self, lessons: Curated) -> list[dict[str, Any]]:
        """What the engine is to prove by that it serves the policy as it is now."""
        room = self._backbone.max_length
        if self._context is not None:
            room = min(room, self._context - 1)  # an engine takes no prompt as long as its context
        return choose_probes(self._backbone, lessons.train, room)

    def _stage(
        self,
        stage: Stage,
        lessons: Curated,
        corrections: Sequence[Demonstration],
        prompts: Sequence[TokenIds],
        anchor: AnchorScores,
        progress: Progress,
        sampler: Sampler,
        inside: StageCheckpoint,
    ) -> Result:
        result: Result
        train, measured = lessons.train, lessons.held_out.prompts
        if stage == "sft":
            result = sft.train(
                self._backbone, corrections, prompts, self._settings, progress, self._keep, inside, measured
            )
        elif stage == "kto":
            result = kto.train(self._backbone, as_labels(train), prompts, self._settings, progress, anchor, inside)
        elif stage == "sl-cai":
            result = sl_cai.train(self._backbone, train.revised, train.kept, prompts, self._settings, progress, inside)
        elif stage == "rl-cai":
            reasoned = self._all.constitution.judge_reasoned
            clear = rl_cai.told_apart(train.ai_pairs, Random(self._settings.seed), reasoned)
            pairs = self._of_taste(replace(train, ai_pairs=tuple(clear)))
            result = rl_cai.train(self._backbone, pairs, train.kept, prompts, self._settings, progress, anchor, inside)
        elif stage in BY_REWARD:
            pairs, alone_weight = self._rewarded(train)
            result = rlhf.train(
                self._backbone, pairs, train.labels, prompts, self._settings, self._by_reward[stage], progress,
                train.scored, sampler, inside, alone_weight,
            )  # fmt: skip
        else:
            on_samples = partial(preference.train, measured=measured)
            learn = pairs_dpo.train if self._settings.dpo_on == "pairs" else on_samples
            result = learn(self._backbone, train.pairs, prompts, self._settings, progress, anchor, inside)
        log.info("%s: %s", stage, result)
        return result

    def _of_taste(self, train: Snapshot) -> list[Pair]:
        """Pairs as people judged them, beside those of a judge where the run has such."""
        return rl_cai.mixed(train.ai_pairs, judgements_of_taste(train), self._all.constitution.human_share)

    def _rewarded(self, train: Snapshot) -> tuple[list[Pair], float]:
        """The same and ties for a reward model, which must know where a judge's preference belongs; `alone_weight`."""
        how, alone, rng = self._all.constitution, len(train.labels) + len(train.scored), Random(self._settings.seed)
        elsewhere = rl_cai.where_they_belong(train.ai_pairs, train.kept, rng, how.judge_reasoned)
        return rl_cai.mixed_for_reward((*train.ai_pairs, *elsewhere), pairs_to_reward(train), alone, how.human_share)

    def _anchor_scores(self, checkpoint: Path, snapshot: str) -> AnchorScores:
        """With files, if it can be said of which base they are."""
        if self._base is None:
            return AnchorScores(self._backbone)
        of = f"{self._base} {self._settings.quantise} {self._anchor}".strip()
        shared = shared_scores(self._backbone, self._all.anchor_folder, of, snapshot)
        return AnchorScores(self._backbone, checkpoint / ANCHOR_SCORES, of, shared)

    def _inside(self, kept: Path, stage: Stage, lessons: Curated, prompts: Sequence[TokenIds]) -> StageCheckpoint:
        """How far a stage is whose result will be `kept`, if it can be said of which base it is. Whatever decides a
        stage is part of whose it is: the policy's weights as they are now say the rest."""
        if self._base is None:
            return StageCheckpoint()
        learner = self._settings.model_dump_json(exclude=set(WHEN_AND_HOW))
        how = self._by_reward[stage].model_dump_json() if stage in self._by_reward else ""
        mixture, room = self._all.constitution.human_share, None
        if stage in BY_REWARD and self._settings.rollouts == "engine":
            room = self._engines.context
        asked = lessons.train, tuple(prompts), lessons.held_out.prompts
        facts = (self._base, learner, stage, how, mixture, self._keep, asked, parallel.world(), room)
        of, path = fingerprint((*facts, self._anchor), self._backbone.adapter_state()), kept.with_suffix(".unfinished")
        return StageCheckpoint(path, of, 60 * self._settings.checkpoint_minutes)

    @cached_property
    def _base(self) -> str | None:
        """The base's fingerprint, where its files are to be found."""
        return fingerprint_if_known(self._model)

    def _sampler(self, checkpoint: Path) -> Sampler:
        if self._settings.rollouts == "engine":
            return SharedSampler(EngineSampler(self._backbone, self._engines, self._run_id, checkpoint / SUSPECTS))
        return InProcessSampler(self._backbone)

    def _look_ahead(self, stages: tuple[Stage, ...], lessons: Curated, sampler: Sampler) -> None:
        """Before anything is learned: raises TrainingFailed where a stage could never sample what it learns from."""
        by_reward = [stage for stage in stages if stage in BY_REWARD]
        if not by_reward:
            return
        train = lessons.train
        if self._settings.rollouts == "engine" and parallel.is_first():
            check_engines(self._engines, sampler.max_length, self._backbone.rank)
        judged: list[Pair | Label | Scored] = [*self._rewarded(train)[0], *train.labels, *train.scored]
        prompts = training_prompts(self._backbone.tokenizer, lessons, FEWEST_PROMPTS)
        for stage in by_reward:
            rlhf.prompts_to_learn_on(self._backbone, sampler, judged, prompts, self._by_reward[stage])

    def _fitted_judge(self, train: Snapshot) -> PreferenceModel | None:
        """What people like, as far as their judgements tell; corrections alone say nothing of it."""
        if "dpo" not in stages_of("auto", train):
            return None
        pairs, _ = within_length(train.pairs, self._backbone.max_length)
        return fit_preferences(self._backbone, pairs)
