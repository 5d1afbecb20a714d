"""A candidate measured by the constitution: how harmless it is, how helpful it stays, and how far to trust who says so.

Candidate, parent and base answer red-team prompts that nothing was trained on; the base's critique of each reply, under
one principle after another, says whether it does harm. Harmless prompts are answered, too: the ones that look as if
they asked for harm show how often help is refused for nothing, everyday ones what a judge prefers under the helpful
principles. Harmlessness against helpfulness is the frontier of Bai et al. (arXiv 2212.08073, figure 2). Beside that:
how often the judge agrees with people's held-out comparisons, how far it leans to whatever stands first, and whether a
revision after a critique is better than one without (their section 3.5).

The base is critic and judge of all of this, whoever judged in training: it is the same for every candidate, so that
their figures compare. How far to trust another judge, whose verdicts a candidate learned from, stands beside
(`learner.evaluate.training_judge`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Messages, Pair, Progress, Snapshot, told_as
from learner.constitution.asking import as_request, ask
from learner.constitution.judges import BackboneJudge
from learner.constitution.judging import Judge, Manner, Preference, Two, judge_pairs, position_bias, won
from learner.constitution.red_team import Prompt, as_prompts, everyday, harmful, look_alikes
from learner.constitution.revising import REVISION_TOKENS, Draft, criticise
from learner.curate import Curated
from learner.evaluate.answers import Answers, answer
from learner.evaluate.intervals import with_interval
from learner.evaluate.refusals import kinds, refuses
from learner.evaluate.training_judge import Asked, judge_figures
from service.constitution import Principle
from service.constitution.prompts import revision_messages
from service.constitution.versions import Version
from service.errors import BadInput
from service.settings import Settings
from service.settings.constitution import SELF

HELPFUL = "helpful"
"""The tag of the principles by which harmless replies are compared."""
WHOSE = {"": "candidate", "_parent": "parent", "_base": "base"}
"""Suffix of a figure → whose it is, in words."""
MOST_PEOPLES_PAIRS, MOST_REVISIONS = 64, 16
Judged = tuple[Messages, float]
"""What a reply to a conversation, or a pair of them, was judged to be: a share, or odds."""
Preferred = list[tuple[Two, Preference]]
USUALLY = 6
"""A candidate that people's feedback made is measured on one in so many of the prompts."""
ANY_VERDICT = Manner(failed_share=1.0)
"""An evaluation takes what verdicts there are."""


def by_constitution(
    backbone: Backbone, settings: Settings, lessons: Curated, progress: Progress
) -> dict[str, Any] | None:
    """What the report says by the constitution, the base judging; None without one, or a model that can't be asked.

    Under `judge`, figures of the judge that the candidate learned from, where that is another one.
    """
    version = lessons.constitution
    if version is None or not backbone.tokenizer.chat_template:
        return None
    trained = bool(lessons.train.revised or lessons.train.ai_pairs)
    count = max(1, settings.constitution.evaluated_prompts // (1 if trained else USUALLY))
    judge = BackboneJudge(backbone, version.constitution)
    asked = ConstitutionEvaluation(
        backbone, version, settings.constitution.tags, judge, count, settings.learner.seed, progress,
        critique_tokens=settings.constitution.critique_tokens,
    )  # fmt: skip
    found = asked.report(lessons.held_out) | {"trained_by_it": trained}
    if lessons.train.ai_pairs and settings.constitution.judge != SELF:
        progress("verdicts of the judge that it learned from", 0, 1, {})
        found["judge"] = judge_figures(settings, backbone, version.constitution, asked.asked, asked.seed)
    return found


class ConstitutionEvaluation:
    """Of one backbone. `judge`: who compares; `prompts`: of each of the three kinds, at most."""

    def __init__(
        self,
        backbone: Backbone,
        version: Version,
        tags: Sequence[str],
        judge: Judge,
        prompts: int,
        seed: int,
        progress: Progress,
        *,
        critique_tokens: int,
    ) -> None:
        self._backbone, self._version, self._judge, self._seed = backbone, version, judge, seed
        self._constitution = version.constitution
        self._principles = version.constitution.tagged(tags)
        try:
            self._helpful = version.constitution.tagged((HELPFUL,))
        except BadInput:  # a constitution may have other tags
            self._helpful = version.constitution.principles
        self._prompts, self._progress, self._critique_tokens = prompts, progress, critique_tokens
        self._preferences: list[Preference] = []
        self.asked: list[Asked] = []
        """What the judge was asked."""
        self.seed = seed + 34
        """Of which principle each pair was judged under."""

    def report(self, held_out: Snapshot) -> dict[str, Any]:
        """All figures; shares are of replies. Those of a parent are there where there is one.

        Raises TrainingFailed for a model that can't be asked.
        """
        name, sha256 = self._version.identity
        found: dict[str, Any] = {"constitution": name, "sha256": sha256}
        found |= self._harm(held_out)
        found |= self._over_refusal()
        found |= self._helpfulness()
        found |= self._agreement(held_out)
        found["position_bias"] = position_bias(self._preferences)
        return found

    def _roles(self) -> dict[str, Role]:
        """Suffix of a figure → whose it is."""
        parent: dict[str, Role] = {"_parent": "parent"} if self._backbone.has("parent") else {}
        return {"": "policy", **parent, "_base": "base"}

    def _answers(self, kind: str, prompts: Sequence[Prompt], seed: int) -> dict[str, Answers]:
        """Two replies of each role to each prompt of a kind, at temperature 1."""
        asked = [prompt.token_ids for prompt in prompts]
        return {
            suffix: answer(
                self._backbone, asked, role, seed, per_prompt=2,
                tell=told_as(self._progress, f"replies of the {WHOSE[suffix]} to {kind}"),
            )
            for suffix, role in self._roles().items()
        }  # fmt: skip

    def _harm(self, held_out: Snapshot) -> dict[str, Any]:
        words = held_out.conversations
        flagged = [one.prompt_token_ids for one in held_out.flagged if one.prompt_token_ids in words]
        prompts = [Prompt(words[prompt], prompt, "flagged") for prompt in dict.fromkeys(flagged)][: self._prompts]
        ours = harmful(self._prompts - len(prompts), self._seed, held_out=True)
        prompts += as_prompts(self._backbone, ours, "ours")
        found: dict[str, Any] = {"red_team_prompts": len(prompts)}
        at_fault: list[tuple[Draft, Principle, str]] = []
        for suffix, answers in self._answers("requests for harm", prompts, self._seed + 31).items():
            drafts, under = self._drafts(prompts, answers)
            tell = told_as(self._progress, f"critiques of the {WHOSE[suffix]}'s replies")
            critiques = criticise(
                self._backbone, self._constitution, under, drafts, critique_tokens=self._critique_tokens, tell=tell
            )
            by_principle: defaultdict[str, list[Judged]] = defaultdict(list)
            for draft, principle, critique in zip(drafts, under, critiques, strict=True):
                if not critique:  # not looked at: the context had no room for it
                    continue
                is_harmful = not self._constitution.finds_nothing(critique)
                by_principle[principle.name].append((draft.conversation, is_harmful))
                if is_harmful:
                    at_fault.append((draft, principle, critique))
            verdicts = [one for each in by_principle.values() for one in each]
            found["replies" + suffix] = len(verdicts)
            found |= _share("harmful" + suffix, verdicts)
            found |= _by_principle("harmful_by_principle" + suffix, by_principle)
            for name, share in kinds(answers.flat_texts).items():
                found |= with_interval(name + suffix, share, len(prompts))
        return found | self._critique_usefulness(at_fault[-MOST_REVISIONS:])

    def _drafts(self, prompts: Sequence[Prompt], answers: Answers) -> tuple[list[Draft], list[Principle]]:
        """The replies, and for each the principle it is looked at under: the same for every role."""
        drafts = [
            Draft(prompt.conversation, text, reply.token_ids)
            for prompt, texts, replies in zip(prompts, answers.texts, answers.replies, strict=True)
            for text, reply in zip(texts, replies, strict=True)
        ]
        return drafts, [self._principles[place % len(self._principles)] for place in range(len(drafts))]

    def _over_refusal(self) -> dict[str, Any]:
        prompts = as_prompts(self._backbone, look_alikes(self._prompts, self._seed, held_out=True), "look-alike")
        found: dict[str, Any] = {"look_alikes": len(prompts)}
        for suffix, answers in self._answers("look-alikes", prompts, self._seed + 32).items():
            found |= with_interval("over_refused" + suffix, fmean(map(refuses, answers.flat_texts)), len(prompts))
        return found

    def _helpfulness(self) -> dict[str, Any]:
        """What the judge prefers under the helpful principles, against what there was before, and against the base: the
        share that was won (`helpful_won…`), and how sure the judge was of it (`helpful_odds…`)."""
        prompts = as_prompts(self._backbone, everyday(self._prompts, self._seed, held_out=True), "everyday")
        answers = self._answers("everyday questions", prompts, self._seed + 33)
        found: dict[str, Any] = {"helpful_prompts": len(prompts)}
        against = {"_base": self._compared(prompts, answers, "", "_base")}
        before = against["_base"]
        if "_parent" in answers:
            against["_parent_base"] = self._compared(prompts, answers, "_parent", "_base")
            before = self._compared(prompts, answers, "", "_parent")
        for suffix, preferred in (against | {"": before}).items():
            found |= _share("helpful_won" + suffix, _won(preferred))
            found |= _share("helpful_odds" + suffix, _odds(preferred))
        by_principle: defaultdict[str, list[Judged]] = defaultdict(list)
        for pair, one in before:
            for verdict in one.verdicts:
                by_principle[verdict.principle].append((pair.conversation, won_by(pair, verdict.a_is_better)))
        return found | _by_principle("helpful_won_by_principle", by_principle)

    def _compared(self, prompts: Sequence[Prompt], answers: Mapping[str, Answers], ours: str, theirs: str) -> Preferred:
        pairs = [
            Two(prompt.conversation, a, b)
            for prompt, of_us, of_them in zip(prompts, answers[ours].texts, answers[theirs].texts, strict=True)
            for a, b in zip(of_us, of_them, strict=True)
        ]
        return self._preferred(f"judgements, {WHOSE[ours]} against {WHOSE[theirs]}", pairs, self._helpful)

    def _agreement(self, held_out: Snapshot) -> dict[str, Any]:
        """Of people's decided comparisons that nothing was trained on, those where the judge prefers the same reply."""
        words = held_out.conversations
        decided = [pair for pair in held_out.pairs if not pair.tie and pair.prompt_token_ids in words]
        decided = decided[-MOST_PEOPLES_PAIRS:]
        pairs = [self._two(pair, held_out) for pair in decided]
        found = self._preferred("judgements of what people compared", pairs, self._constitution.principles, True)
        return {**_share("judged_as_people", _won(found)), "peoples_pairs": len(found)}

    def _two(self, pair: Pair, part: Snapshot) -> Two:
        chosen, rejected = self._backbone.decode([pair.chosen, pair.rejected])
        return Two(part.conversations[pair.prompt_token_ids], chosen, rejected)

    def _critique_usefulness(self, at_fault: Sequence[tuple[Draft, Principle, str]]) -> dict[str, Any]:
        """How often a revision after a critique is preferred to one without, of replies that do harm and of which both
        came to something."""
        texts = list[list[str]]()  # "" where it had no room
        for with_critique in (True, False):
            requests = [
                revision_messages(self._constitution, principle, as_request(draft.conversation), draft.text,
                                  critique if with_critique else None)
                for draft, principle, critique in at_fault
            ]  # fmt: skip
            tell = told_as(self._progress, f"revisions {'after' if with_critique else 'without'} a critique")
            said = ask(self._backbone, requests, max_new_tokens=REVISION_TOKENS, tell=tell)
            texts.append(["" if one is None else one.text for one in said])
        revised = zip(at_fault, *texts, strict=True)
        pairs = [Two(draft.conversation, a, b) for (draft, _, _), a, b in revised if a.strip() and b.strip()]
        found = self._preferred("judgements of revisions", pairs, self._principles)
        return {**_share("critique_useful", _odds(found)), "critiqued": len(found)}

    def _preferred(
        self, stage: str, pairs: Sequence[Two], principles: Sequence[Principle], of_people: bool = False
    ) -> Preferred:
        self.asked.append(Asked(pairs, principles, of_people))
        tell = told_as(self._progress, stage)
        found = judge_pairs(self._judge, self._constitution, principles, pairs, ANY_VERDICT, self.seed, tell)
        whole = [(pair, one) for pair, one in zip(pairs, found, strict=True) if one is not None]
        self._preferences += [one for _, one in whole]
        return whole


def _odds(preferences: Preferred) -> list[Judged]:
    return [(pair.conversation, one.a_is_better) for pair, one in preferences]


def _won(preferences: Preferred) -> list[Judged]:
    return [(pair.conversation, won_by(pair, one.a_is_better)) for pair, one in preferences]


def won_by(pair: Two, a_is_better: float) -> float:
    """Two replies that say the same are a tie, whatever rounding makes of the odds."""
    return 0.5 if pair.a.strip() == pair.b.strip() else won(a_is_better)


def _share(name: str, judged: Sequence[Judged]) -> dict[str, Any]:
    """Their mean with its interval: conversations are the draws, however many replies or pairs each has."""
    value = fmean(one for _, one in judged) if judged else None
    return dict(with_interval(name, value, len({conversation for conversation, _ in judged})))


def _by_principle(name: str, judged: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """The same for each principle, by its name under each of the three."""
    shares = {principle: list(_share("", each).values()) for principle, each in judged.items()}
    ends = (name, f"{name}_low", f"{name}_high")
    return {end: {principle: share[place] for principle, share in shares.items()} for place, end in enumerate(ends)}
