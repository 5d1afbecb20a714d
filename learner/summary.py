"""What a run says of itself in plain words: what it learned from, or why there was nothing to learn."""

from __future__ import annotations

from learner.curate import Curated
from learner.snapshot import FrozenFeedback
from learner.trainer import Stage


def learned_from(lessons: Curated, stages: tuple[Stage, ...]) -> list[str]:
    """The feedback that the stages train on."""
    names: set[str] = set()
    if "sft" in stages:
        names |= {one.feedback_id for one in lessons.train.demonstrations}
    if "dpo" in stages:
        names |= {name for pair in lessons.train.pairs for name in pair.feedback_ids}
    return sorted(names)


def describe(frozen: FrozenFeedback, lessons: Curated, stages: tuple[Stage, ...]) -> str:
    """What it learned from in these stages, of which there is one at least, in one or two sentences."""
    train, held_out = lessons.counts["train"], lessons.counts["held_out"]
    learned = [_many(train["demonstrations"], "correction")] if "sft" in stages else []
    learned += [_many(train["pairs"], "pair")] if "dpo" in stages else []
    used = set(learned_from(lessons, stages))
    teachers = {judgement.caller for judgement in frozen.judgements if judgement.feedback_id in used}
    people = _many(len(teachers), "person", "people")
    text = f"It learned from {' and '.join(learned)} of {people}; "
    text += f"{_many(held_out['pairs'], 'pair')} held out."
    return text + (f" Not used: {lessons.set_aside}." if lessons.set_aside else "")


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def why_nothing(lessons: Curated, method: str) -> str:
    """Why a run ends without training."""
    counts = lessons.counts
    if not counts["judgements"]:
        return "Nobody has given any feedback yet."
    wanted = {"sft": "corrections", "dpo": "pairs of a better and a worse reply"}.get(
        method, "corrections or pairs of a better and a worse reply"
    )
    held = counts["held_out"]["pairs"] + counts["held_out"]["demonstrations"]
    said = ", ".join(_many(count, kind) for kind, count in counts["judgements"].items())
    text = f"There is feedback ({said}), but it holds no {wanted} to learn from."
    if lessons.set_aside:
        text += f" Not used: {lessons.set_aside}."
    return text + (f" Held out for evaluation: {_many(held, 'example')}." if held else "")
