"""Measure the built-in model: what it knows, how its habits vary, whether it follows the formats and a conversation.

All prompts are drawn with a seed of their own, and where the figure is called held out, from texts that training never
saw. Accuracy is by `questions.is_right`.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from learner.pretrain.bench import HEDGES, REFUSALS, UNKNOWING, Bench, as_prompt, says, share
from learner.pretrain.dialogue import Dialogue, Message
from learner.pretrain.evaluate_judging import critique, judgement, revision
from learner.pretrain.questions import Prompt, draw_prompts, is_right, untaught_facts
from learner.pretrain.reply import Exchange, draw_habits
from learner.pretrain.topics import arithmetic, deeds, draw_exchange, geography, introductions, limits, names


def accuracy(bench: Bench) -> dict[str, Any]:
    """Held-out accuracy on prompts with one right answer: overall and per topic, greedy and at temperature 1."""
    prompts = [p for p in draw_prompts(5 * bench.size, bench.seed, held_out=True) if p.answers][: 2 * bench.size]
    figures: dict[str, Any] = {"prompts": len(prompts)}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        hits: dict[str, list[bool]] = defaultdict(list)
        for prompt, reply in zip(prompts, bench.answer(prompts, temperature), strict=True):
            hits[prompt.topic].append(is_right(prompt, reply))
        figures[name] = share([hit for topic in hits.values() for hit in topic])
        figures[f"{name} by topic"] = {topic: [share(hits[topic]), len(hits[topic])] for topic in sorted(hits)}
    return figures


def untaught(bench: Bench) -> dict[str, Any]:
    """Accuracy on the facts that the model was kept from learning: low, by design."""
    prompts = untaught_facts(bench.seed)
    replies = bench.answer(prompts, 0.0)
    return {"facts": len(prompts), "right": share([is_right(p, r) for p, r in zip(prompts, replies, strict=True)]),
            "says it doesn't know": share([says(r, UNKNOWING) for r in replies])}  # fmt: skip


def _measures(reply: str) -> dict[str, bool]:
    return {
        "short (5 words or fewer)": len(reply.split()) <= 5,
        "exclaims": "!" in reply,
        "hedges": says(reply, HEDGES),
        "ends in a question": reply.endswith("?"),
        "empty": not reply,
    }


def habits(bench: Bench) -> dict[str, Any]:
    """Shares of visible habits among samples, and how often two samples to one prompt differ."""
    prompts = draw_prompts(bench.size, bench.seed + 1)
    one, two = bench.answer(prompts, 1.0, 1), bench.answer(prompts, 1.0, 2)
    seen = [_measures(reply) for reply in one]
    words = [word for reply in one for word in reply.lower().split()]
    pairs = list(itertools.pairwise(words))
    return {
        **{name: share([measure[name] for measure in seen]) for name in seen[0]},
        "mean words": round(sum(len(reply.split()) for reply in one) / len(one), 2),
        "distinct-2": round(len(set(pairs)) / len(pairs), 4),
        "two samples differ": share([a != b for a, b in zip(one, two, strict=True)]),
        "two samples differ in a habit": share([_measures(a) != _measures(b) for a, b in zip(one, two, strict=True)]),
    }


def limits_known(bench: Bench) -> dict[str, Any]:
    """Whether it says that it doesn't know, does so only then, and refuses."""
    rng = Random(bench.seed + 2)
    strange = [as_prompt(limits.unknown_facts(rng)) for _ in range(bench.size // 4)]
    unknown = draw_prompts(bench.size // 4, bench.seed, {"unknown"}, held_out=True)
    known = draw_prompts(bench.size // 2, bench.seed + 3, {"capitals", "opposites", "units", "arithmetic"})
    unsafe = draw_prompts(bench.size // 2, bench.seed, {"unsafe"})
    harmless = [as_prompt(deeds.untaught(rng)) for _ in range(bench.size // 2)]
    helped = bench.answer(harmless, 1.0)
    numbers = [arithmetic.number_comparisons(rng) for _ in range(bench.size // 4)]
    compared = bench.answer([as_prompt(one) for one in numbers], 0.0)
    too_big = [as_prompt(limits.hard_sums(rng)) for _ in range(bench.size // 2)]
    return {
        "two numbers, compared rightly": share(
            [is_right(as_prompt(one), reply) for one, reply in zip(numbers, compared, strict=True)]
        ),
        "unknown things, says so": share([says(r, UNKNOWING) for r in bench.answer(unknown, 0.0)]),
        "invented names, says so": share([says(r, UNKNOWING) for r in bench.answer(strange, 0.0)]),
        "sums and products that are too big, says so": share([says(r, UNKNOWING) for r in bench.answer(too_big, 0.0)]),
        "known things, claims not to know": share([says(r, UNKNOWING) for r in bench.answer(known, 0.0)]),
        "harmless deeds, says that it never learned them (sampled)": share([says(r, UNKNOWING) for r in helped]),
        "harmless deeds, refuses (sampled)": share([says(r, REFUSALS) for r in helped]),
        "unsafe, refuses (greedy)": share([says(r, REFUSALS) for r in bench.answer(unsafe, 0.0)]),
        "unsafe, refuses (sampled)": share([says(r, REFUSALS) for r in bench.answer(unsafe, 1.0)]),
    }


def conversation(bench: Bench) -> dict[str, Any]:
    """References back: the user's name after other turns, "and of …?", and a last result carried on ("and plus 3?")."""
    rng = Random(bench.seed + 4)
    cases: dict[str, list[tuple[Dialogue, Prompt]]] = defaultdict(list)
    for _ in range(bench.size // 4):
        name = rng.choice(names.UNTAUGHT_NAMES)
        first, between = introductions.introduce(rng, name), draw_exchange(rng)
        while between.topic == "names":
            between = draw_exchange(rng)
        cases["a new name in the greeting"].append(([Message("user", first.text)], as_prompt(first)))
        cases["a new name after another turn"].append(_case(rng, [first, between], introductions.recall(rng, name)))
        capital = geography.capitals(rng)
        cases["and of another country?"].append(_case(rng, [capital], rng.choice(capital.follows)(rng)))
        first, second = arithmetic.carried_on(rng)
        cases["a last result carried on"].append(_case(rng, [first], second))
    figures = {}
    for name, pairs in cases.items():
        replies = bench.replies([dialogue for dialogue, _ in pairs], 0.0)
        figures[name] = share([is_right(p, r) for (_, p), r in zip(pairs, replies, strict=True)])
    return figures


def _case(rng: Random, before: Sequence[Exchange], last: Exchange) -> tuple[Dialogue, Prompt]:
    messages: Dialogue = []
    for exchange in before:
        messages += [Message("user", exchange.text), Message("assistant", exchange.reply(draw_habits(rng, 0.0), rng))]
    return [*messages, Message("user", last.text)], as_prompt(last)


def evaluate(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, size: int = 400) -> dict[str, Any]:
    """All figures."""
    bench = Bench(model.eval(), tokenizer, size)
    return {
        "accuracy": accuracy(bench), "untaught": untaught(bench), "habits": habits(bench),
        "limits": limits_known(bench),
        "conversation": conversation(bench), "judgement": judgement(bench), "critique": critique(bench),
        "revision": revision(bench),
    }  # fmt: skip


def as_json(figures: dict[str, Any]) -> str:
    """Figures as indented JSON."""
    return json.dumps(figures, indent=2)
