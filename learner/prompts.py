"""Which prompts a run samples on and measures on: what people asked, and standing questions where that is little."""

from __future__ import annotations

from typing import Any

from learner.batch import TokenIds
from learner.constitution.asking import question
from learner.curate import Curated
from learner.pretrain.dialogue import is_held_out
from learner.pretrain.questions import draw_prompts
from learner.sampling import affordable

FEWEST_PROMPTS, FEWEST_RETAINED = 128, 320
"""Prompts that learning a preference samples on, and that corrections must not move, at least: where people asked
fewer, standing ones are added."""
FEWEST_HELD_OUT = 48
STANDING_SEED = 20_261_121


def training_prompts(tokenizer: Any, lessons: Curated, fewest: int) -> list[TokenIds]:
    """Those of the training part, each once, with as many standing ones as make `fewest`; none is measured on."""
    prompts = affordable(lessons.train.prompts, fewest)
    if len(prompts) == len(lessons.train.prompts) < fewest:
        measured = set(lessons.held_out.prompts)
        standing = _standing_prompts(tokenizer, fewest, held_out=False)
        prompts += [prompt for prompt in standing if prompt not in measured][: fewest - len(prompts)]
    return list(dict.fromkeys(prompts))


def held_out_prompts(tokenizer: Any, lessons: Curated) -> tuple[list[TokenIds], list[TokenIds]]:
    """Those of the held-out part, and the standing ones beside them where they are few."""
    prompts = affordable(lessons.held_out.prompts, 2 * FEWEST_HELD_OUT)
    if len(prompts) >= FEWEST_HELD_OUT:
        return prompts, []
    known = {*lessons.train.prompts, *prompts}
    standing = [one for one in _standing_prompts(tokenizer, FEWEST_HELD_OUT, held_out=True) if one not in known]
    return prompts, standing[: FEWEST_HELD_OUT - len(prompts)]


def _standing_prompts(tokenizer: Any, count: int, held_out: bool) -> list[TokenIds]:
    """Everyday questions in the model's chat template; none for a model that has no template."""
    if not tokenizer.chat_template:
        return []
    drawn = draw_prompts(2 * count, STANDING_SEED, held_out=held_out)
    texts = [prompt.text for prompt in drawn if is_held_out(prompt.text) == held_out][:count]
    return [question(tokenizer, text) for text in texts]
