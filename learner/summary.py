"""What a run says of itself in plain words: what it learned from, or why there was nothing to learn."""

from __future__ import annotations

from learner.batch import stay_beside
from learner.counted import counted
from learner.curate import Curated
from learner.snapshot import FrozenFeedback
from learner.trainer import (
    BY_REWARD,
    LEAST_THUMBS,
    OTHER_SIDE,
    THUMBS_TO_A_PAIR,
    Stage,
    as_labels,
    from_pairs,
    from_scores,
    from_thumbs,
    one_side,
    pairs_to_learn,
)

SINGLE_THUMBS = (
    f"learned from where there are {LEAST_THUMBS} good and {LEAST_THUMBS} bad, {THUMBS_TO_A_PAIR} to each pair"
)
LABELS_OF_HARM = "a reward model and kto learn from them, and sl-cai and rl-cai ask their prompts again"
SINGLE_SCORES = f"a reward model learns from {LEAST_THUMBS} above and {LEAST_THUMBS} below what a person usually gives"


def learned_from(lessons: Curated, stages: tuple[Stage, ...]) -> list[str]:
    """The feedback that the stages train on."""
    names: set[str] = set()
    if "sft" in stages:
        names |= {one.feedback_id for one in lessons.train.demonstrations}
    if from_pairs(stages):
        names |= {name for pair in pairs_to_learn(stages, lessons.train) for name in pair.feedback_ids}
        names |= {one.feedback_id for one in lessons.train.criticised}
    if from_thumbs(stages):
        names |= {name for label in as_labels(lessons.train) for name in label.feedback_ids}
    if from_scores(stages):
        names |= {name for scored in lessons.train.scored for name in scored.feedback_ids}
    if lessons.train.revised or lessons.train.ai_pairs:
        names |= {one.feedback_id for one in lessons.train.flagged}
    return sorted(names)


def describe(frozen: FrozenFeedback, lessons: Curated, stages: tuple[Stage, ...]) -> str:
    """What it learned from in these stages, of which there is one at least, in one or two sentences."""
    train = lessons.counts["train"]
    learned = [counted(train["demonstrations"], "correction")] if "sft" in stages else []
    judged = pairs_to_learn(stages, lessons.train)
    ties = sum(pair.tie for pair in judged)
    of_pairs = [counted(len(judged) - ties, "pair")] if len(judged) > ties else []
    of_pairs += [counted(ties, "tie")] if ties else []
    learned += of_pairs if from_pairs(stages) else []
    if any(stage in BY_REWARD for stage in stages) and lessons.train.labels:
        learned.append(f"{train['good']} good and {counted(train['bad'], 'bad reply', 'bad replies')}")
    if from_scores(stages) and lessons.train.scored:
        learned.append(counted(train["scores"], "scored reply", "scored replies"))
    if "kto" in stages:
        labels = f"{train['good']} good and {counted(train['bad'], 'bad reply', 'bad replies')}"
        learned += [labels, *of_pairs] if lessons.train.labels else of_pairs
    learned += _written(frozen, lessons, stages)
    used = set(learned_from(lessons, stages))
    teachers = {judgement.caller for judgement in frozen.judgements if judgement.feedback_id in used}
    people = counted(len(teachers), "person", "people")
    by_whom = f" of {people}" if teachers else ""
    text = f"It learned from {' and '.join(learned)}{by_whom}; {_held_out(lessons, stages)} held out."
    return text + _not_used(lessons, stages)


def _held_out(lessons: Curated, stages: tuple[Stage, ...]) -> str:
    """What these stages would have learned from, had it not been kept back."""
    counts, by_thumbs = lessons.counts["held_out"], "kto" in stages
    labelled = counts["good"] + counts["bad"]
    pairs = len(pairs_to_learn(stages, lessons.held_out)) if by_thumbs else counts["pairs"]
    found = [counted(labelled, "reply", "replies")] if by_thumbs and (labelled or not pairs) else []
    found += [counted(pairs, "pair")] if pairs or not by_thumbs else []
    if counts["critiques"] and (by_thumbs or from_pairs(stages)):
        found.append(counted(counts["critiques"], "critique"))
    if counts["served_revisions"] and lessons.train.ai_pairs:
        found.append(counted(counts["served_revisions"], "revision"))
    return " and ".join(found)


def _written(frozen: FrozenFeedback, lessons: Curated, stages: tuple[Stage, ...]) -> list[str]:
    """What the model wrote itself."""
    part, version = lessons.train, lessons.constitution
    by = f" by constitution {version.name}" if version is not None else ""
    changed = lessons.counts.get("written", {}).get("changed", len(part.revised))
    unchanged = len(part.revised) - changed
    found = [f"{counted(changed, 'reply', 'replies')} revised{by}"] if changed else []
    if unchanged:
        found.append(
            f"{unchanged} that needed none"
            if changed
            else f"{counted(unchanged, 'reply', 'replies')} that needed no revision{by}"
        )
    pairs = {(pair.prompt_token_ids, pair.chosen, pair.rejected, pair.conversation_id) for pair in part.ai_pairs}
    served = [
        one
        for one in frozen.revisions
        if (one.prompt_token_ids, one.revision_token_ids, one.draft_token_ids, one.conversation_id) in pairs
    ]
    if served:
        under = ", ".join(sorted({one.constitution for one in served}, key=lambda name: (len(name), name)))
        found.append(f"{counted(len(served), 'reply', 'replies')} revised while served (under {under})")
    judged = max(0, len(part.ai_pairs) - len(served) - _not_told_apart(lessons, stages))
    found += [f"{counted(judged, 'pair')} judged{by}"] if judged else []
    return found + ([f"{counted(len(part.kept), 'reply', 'replies')} to harmless prompts"] if part.kept else [])


def _not_told_apart(lessons: Curated, stages: tuple[Stage, ...]) -> int:
    """Pairs that the judge did not tell apart and these stages leave out (`learner.methods.rl_cai.told_apart`)."""
    written = lessons.counts.get("written")
    if not written or "rl-cai" not in stages:
        return 0
    others = len(lessons.train.ai_pairs) - int(written["told_apart"])
    return others - stay_beside(int(written["told_apart"]), others)


def _not_used(lessons: Curated, stages: tuple[Stage, ...]) -> str:
    """What was set aside, and single thumbs, labels of harm and scores that these stages don't learn from; empty where
    all was used."""
    waiting = lessons.train.labels if not from_thumbs(stages) else ()
    thumbs = sum(label.by_thumb for label in waiting)
    reasons = [f"{counted(thumbs, 'single thumb')} ({SINGLE_THUMBS})"] if thumbs else []
    if len(waiting) > thumbs:
        reasons.append(f"{counted(len(waiting) - thumbs, 'reply', 'replies')} labelled for harm ({LABELS_OF_HARM})")
    if lessons.train.scored and not from_scores(stages):
        reasons.append(f"{counted(len(lessons.train.scored), 'single score')} ({SINGLE_SCORES})")
    if alike := _not_told_apart(lessons, stages):
        reasons.append(f"{counted(alike, 'pair')} that the judge did not tell apart")
    if left := lessons.counts.get("written", {}).get("revised", 0) - len(lessons.train.revised):
        reasons.append(f"{counted(left, 'reply', 'replies')} that needed no revision")
    reasons += [lessons.set_aside] if lessons.set_aside else []
    return f" Not used: {'; '.join(reasons)}." if reasons else ""


def why_nothing(lessons: Curated, method: str) -> str:
    """Why a run ends without training."""
    counts = lessons.counts
    if not counts["judgements"]:
        return "There is no feedback to learn from."
    pairs = "pairs of a better and a worse reply"
    wanted = {
        "sft": "corrections", "dpo": pairs, "kto": f"{pairs} or single thumbs",
        "auto": f"corrections, {pairs} or enough thumbs",
    }.get(method, f"{pairs}, enough thumbs or enough scores")  # fmt: skip
    held = sum(counts["held_out"][name] for name in ("demonstrations", "pairs", "good", "bad", "scores", "critiques"))
    said = ", ".join(counted(count, kind) for kind, count in counts["judgements"].items())
    text = f"There is feedback ({said}), but it holds no {wanted} to learn from.{_not_used(lessons, ())}"
    if method == "kto" and (side := one_side(lessons.train)):
        text = (
            f"There is feedback ({said}), but every reply is called {side}, and kto tells good ones from bad ones. All "
            f"of it is kept, and learned from once there are {OTHER_SIDE[side]} replies or pairs, too."
        )
    return text + (f" Held out for evaluation: {counted(held, 'example')}." if held else "")
