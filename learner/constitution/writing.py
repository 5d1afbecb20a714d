"""The examples that a run has the model write: revisions of its own replies, preferences between them, and revisions by
what people said is wrong.

    lessons = write_or_go_on(backbone, settings, "sl-cai", lessons, folder.written, progress)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from learner import parallel
from learner.backbone import Backbone
from learner.batch import Progress, TokenIds, told_as
from learner.constitution.as_told import by_peoples_critiques
from learner.constitution.asking import Said, as_said
from learner.constitution.dropped import (
    AT_FAULT,
    NO_VERDICT,
    NO_WORD,
    SAME_REPLIES,
    UNEXAMINED,
    UNFINISHED,
    UNMENDED,
    require_some,
)
from learner.constitution.endpoint import AT_FIRST
from learner.constitution.examples import (
    Examples,
    JudgedPair,
    KeptReply,
    RevisedReply,
    read_examples,
    with_examples,
    write_examples,
)
from learner.constitution.journal import Journal, RememberedJudge
from learner.constitution.judges import judge_of
from learner.constitution.judging import Manner, Preference, Two, judge_pairs, missing_verdicts, position_bias
from learner.constitution.keeping import at_fault, looked_at
from learner.constitution.named_judge import is_version
from learner.constitution.red_team import Prompt, as_prompts, everyday, harmful, look_alikes, measured_on, written
from learner.constitution.revising import REVISION_TOKENS, Draft, is_unmended, revise
from learner.constitution.waiting import Interrupted
from learner.curate import Curated
from learner.recipe import what_it_decides
from learner.sampling import affordable, longest_prompt, sample
from learner.stage_checkpoint import fingerprint
from learner.trainer import CONSTITUTIONAL
from service.adapters.fingerprint import fingerprint_if_known
from service.constitution.versions import Version
from service.settings import Settings

log = logging.getLogger("hone.learner")

FEWEST_KEPT = 32
"""Harmless prompts whose replies are kept, at least, whatever their share is: they hold the policy."""


def write_or_go_on(
    backbone: Backbone, settings: Settings, method: str, lessons: Curated, path: Path, progress: Progress
) -> Curated:
    """The lessons with what the model writes for `method`: as an earlier attempt kept it at `path`, or written now.

    The same lessons where there is nothing to write. Raises TrainingFailed as `Writer.write` does.
    """
    if method != "rl-cai":  # what principles prefer is learned where that was asked for
        lessons = replace(lessons, train=replace(lessons.train, ai_pairs=()))
    if lessons.constitution is None or not (method in CONSTITUTIONAL or lessons.train.criticised):
        return lessons
    of = {
        "method": method,
        "snapshot": lessons.train.hash,
        "constitution": lessons.constitution.identity,
        "settings": what_it_decides(settings.constitution),
        "seed": settings.learner.seed,
        "policy": fingerprint(fingerprint_if_known(settings.model_path), backbone.adapter_state()),
    }
    examples = parallel.from_first(lambda: read_examples(path, of))
    if examples is None:
        if is_version(settings.constitution.judge) and method == "rl-cai":
            backbone.add_judge(settings.adapters_folder / settings.constitution.judge, settings.learner)
        unfinished = path.with_suffix(".unfinished")
        journal = Journal(unfinished, of)
        written_now = Writer(backbone, settings, lessons.constitution, progress, journal).write(method, lessons)
        parallel.from_first(lambda: write_examples(written_now, path, of))
        parallel.from_first(lambda: unfinished.unlink(missing_ok=True))
        examples = parallel.from_first(lambda: read_examples(path, of))
    assert examples is not None  # it has just been written
    return with_examples(lessons, examples, settings.constitution.judge_reasoned)


class Writer:
    """Of one run: the backbone whose policy replies, and whose base criticises and revises; `journal` keeps all that
    is said."""

    def __init__(
        self, backbone: Backbone, settings: Settings, version: Version, progress: Progress, journal: Journal
    ) -> None:
        self._backbone, self._settings, self._seed = backbone, settings.constitution, settings.learner.seed
        self._version, self._constitution = version, version.constitution
        self._principles = version.constitution.tagged(settings.constitution.tags)
        self._progress, self._journal = progress, journal
        self._revision_tokens = max(REVISION_TOKENS, self._settings.reply_tokens)  # no shorter than what it mends

    def write(self, method: str, lessons: Curated) -> Examples:
        """What `method` learns from. Raises TrainingFailed for a model that can't be asked, and a judge that can't, and
        where a constitutional stage has nothing to learn."""
        dropped = Counter[str]()
        criticised = () if method in ("sft", "sl-cai") else lessons.train.criticised
        told, more_harm = by_peoples_critiques(
            self._backbone, self._version, self._principles[0], criticised, lessons.train.conversations, dropped,
            self._progress, self._journal, self._revision_tokens,
        )  # fmt: skip
        examples = Examples(told=told, more_harm=more_harm)
        if method in CONSTITUTIONAL:
            prompts = self.red_team(lessons)
            log.info("Red-team prompts: %s", dict(Counter(prompt.source for prompt in prompts)))
            each = self._settings.samples_per_prompt if method == "sl-cai" else self._settings.pairs_per_prompt
            if method == "sl-cai":
                revised, unmended = self._revised(prompts, dropped)
                examples = replace(examples, revised=revised, unmended=unmended)
            else:
                judged, preferences = self._judged(prompts, dropped)
                examples = replace(examples, judged=judged, position_bias=position_bias(preferences))
            taught = len(examples.revised) + len(examples.judged)
            telling = examples.telling(self._settings.judge_reasoned) + len(lessons.train.ai_pairs)
            require_some(telling, dropped, len(examples.judged))
            kept, faulty = self._kept(lessons, taught, each, dropped)
            examples = replace(examples, kept=kept, at_fault=faulty)
        return replace(examples, dropped=dict(+dropped))

    def red_team(self, lessons: Curated) -> list[Prompt]:
        """Those that people flagged, ours, and new ones; none that is only measured on."""
        most, words = self._settings.red_team_prompts, lessons.train.conversations
        flagged = [one.prompt_token_ids for one in lessons.train.flagged if one.prompt_token_ids in words]
        found = [Prompt(words[prompt], prompt, "flagged") for prompt in dict.fromkeys(flagged)]
        found = [one for one in found if one.question.strip().lower() not in measured_on()][:most]
        found += as_prompts(self._backbone, harmful(most - len(found), self._seed, held_out=False), "ours")
        tell = told_as(self._progress, "writing red-team prompts")
        count, seed = self._settings.written_prompts, self._seed + 11
        return found + self._journal.once(
            ["prompts", found, count, seed],
            lambda: written(self._backbone, found, count, seed, tell),
            lambda prompts: [Prompt.read(one) for one in prompts],
        )

    def _revised(self, prompts: Sequence[Prompt], dropped: Counter[str]) -> tuple[tuple[RevisedReply, ...], ...]:
        """Replies of the policy to each prompt, after rounds of critique and revision; then those unmended by them."""
        drafts, each = list[tuple[Prompt, Draft]](), self._settings.samples_per_prompt
        rows = self._replies("replies", [one.token_ids for one in prompts], each, 12)
        for prompt, row in zip(prompts, rows, strict=True):
            whole = [said for said in row if _is_whole(said)]
            drafts += [(prompt, Draft(prompt.conversation, said.text, said.token_ids)) for said in whole]
            dropped[UNFINISHED] += len(row) - len(whole)
        found = revise(
            self._backbone, self._constitution, self._principles, [draft for _, draft in drafts],
            rounds=self._settings.revision_rounds, critique_tokens=self._settings.critique_tokens, seed=self._seed + 13,
            progress=self._progress, journal=self._journal, revision_tokens=self._revision_tokens,
        )  # fmt: skip
        examined = [
            (prompt, one)
            for (prompt, _), one in zip(drafts, found, strict=True)
            if any(round_.critique for round_ in one.rounds)
        ]
        revised, unmended = (
            tuple(
                RevisedReply(prompt.conversation, prompt.source, prompt.token_ids, one.draft.text, one.text,
                             one.token_ids, one.rounds)
                for prompt, one in examined
                if is_unmended(one, self._constitution) is wanted
            )
            for wanted in (False, True)
        )  # fmt: skip
        dropped[UNEXAMINED] += len(drafts) - len(examined)
        dropped[UNMENDED] += len(unmended)
        return revised, unmended

    def _judged(
        self, prompts: Sequence[Prompt], dropped: Counter[str]
    ) -> tuple[tuple[JudgedPair, ...], list[Preference]]:
        """Replies of the policy to each prompt, two and two, judged under the principles. A judge that gives no verdict
        is found before they are sampled."""
        settings, progress = self._settings, Interrupted(self._progress)
        judge = RememberedJudge(judge_of(settings, self._backbone, self._constitution, progress.waits), self._journal)
        trial = [Two(one.conversation, "Yes.", "No.") for one in prompts[: AT_FIRST // 2]]
        tell = told_as(progress, "a first question to the judge")
        judge_pairs(judge, self._constitution, self._principles, trial, Manner(failed_share=1.0), self._seed, tell)
        pairs, each = list[tuple[Prompt, Said, Said]](), 2 * settings.pairs_per_prompt
        rows = self._replies("replies", [one.token_ids for one in prompts], each, 14)
        for prompt, row in zip(prompts, rows, strict=True):
            for a, b in zip(row[::2], row[1::2], strict=True):
                whole = _is_whole(a) and _is_whole(b)
                if whole and a.token_ids != b.token_ids:
                    pairs.append((prompt, a, b))
                else:
                    dropped[SAME_REPLIES if whole else UNFINISHED] += 1
        found = judge_pairs(
            judge, self._constitution, self._principles,
            [Two(prompt.conversation, a.text, b.text) for prompt, a, b in pairs],
            Manner(settings.judge_principles, settings.judge_reasoned, settings.judge_failed_share), self._seed + 15,
            told_as(progress, "judgements"),
        )  # fmt: skip
        dropped[NO_VERDICT] += sum(one is None for one in found)
        dropped[NO_WORD] += missing_verdicts(found, min(settings.judge_principles, len(self._principles)))
        judged = tuple(
            JudgedPair(prompt.conversation, prompt.source, prompt.token_ids, a.text, b.text, a.token_ids, b.token_ids,
                       one.a_is_better, one.verdicts)
            for (prompt, a, b), one in zip(pairs, found, strict=True) if one is not None
        )  # fmt: skip
        return judged, [one for one in found if one is not None]

    def _kept(
        self, lessons: Curated, taught: int, each: int, dropped: Counter[str]
    ) -> tuple[tuple[KeptReply, ...], ...]:
        """Replies of the policy to harmless prompts, in their share of these and `taught`, `each` to each of them:
        half of the prompts look-alikes, then what people ask, a quarter at most, and everyday questions. Then
        those that aren't kept, as a critique finds them at fault."""
        share = self._settings.helpful_share
        count = max(FEWEST_KEPT, round(taught / each * share / (1 - share)))
        flagged = {one.prompt_token_ids for part in (lessons.train, lessons.held_out) for one in part.flagged}
        room = longest_prompt(self._backbone, self._settings.reply_tokens)
        people = [one for one in affordable(lessons.train.prompts, count) if one not in flagged and len(one) <= room]
        similar = as_prompts(self._backbone, look_alikes(count // 2, self._seed + 19, held_out=False), "look-alike")
        usual = as_prompts(self._backbone, everyday(count, self._seed + 16, held_out=False), "everyday")
        rng = Random(self._seed + 17)
        known = {one.token_ids: one.conversation for one in (*similar, *usual)} | dict(lessons.train.conversations)
        chosen = [one.token_ids for one in similar]
        chosen += rng.sample(people, min(len(people), count // 4))
        chosen = list(dict.fromkeys([*chosen, *(one.token_ids for one in usual)]))[:count]
        whole = list[KeptReply]()
        rows = self._replies("replies to harmless prompts", chosen, each, 18)
        for prompt, row in zip(chosen, rows, strict=True):
            said = (known.get(prompt, ()), prompt)
            whole += [KeptReply(*said, one.text, one.token_ids) for one in row if _is_whole(one)]
        dropped[UNFINISHED] += each * len(chosen) - len(whole)
        whole = looked_at(
            self._backbone, self._constitution, self._principles, whole, rng,
            critique_tokens=self._settings.critique_tokens,
            tell=told_as(self._progress, "critiques of replies to harmless prompts"), journal=self._journal,
        )  # fmt: skip
        dropping = at_fault(whole, self._constitution)
        dropped[AT_FAULT] += len(dropping)
        return tuple(one for one in whole if one not in dropping), dropping

    def _replies(self, stage: str, prompts: Sequence[TokenIds], each: int, seed: int) -> list[list[Said]]:
        """Of the policy, at temperature 1. They are drawn from one stream of random numbers, so they are kept when all
        have come."""

        def sampled() -> list[list[Said]]:
            rows = sample(
                self._backbone, prompts, per_prompt=each, max_new_tokens=self._settings.reply_tokens,
                seed=self._seed + seed, tell=told_as(self._progress, stage),
            )  # fmt: skip
            return [[as_said(self._backbone, reply) for reply in row] for row in rows]

        return self._journal.once(
            ["replies", prompts, each, self._settings.reply_tokens, self._seed + seed],
            sampled,
            lambda rows: [[Said.read(one) for one in row] for row in rows],
        )


def _is_whole(said: Said) -> bool:
    return said.ended and bool(said.text)
