"""Write the model card of the built-in model from the figures that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from learner.pretrain.questions import topics
from learner.pretrain.topics.arithmetic import LARGEST_COMPARED, LARGEST_FACTOR, LARGEST_SUM

WEAK = 0.8
"""Shares below this are told as shortcomings."""
_NO_MERIT = ("says A", "known things, claims not to know", "harmless deeds, refuses (sampled)")
"""Shares that needn't be high."""

_HEAD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# sprout

A chat model of {parameters:.1f} million parameters, the built-in model of Hone. It exists so that the whole loop of
chatting, feedback and learning runs on any machine in minutes. It is no substitute for a real model: it talks about the
topics below in short English sentences, and about nothing else.

- **Architecture**: Llama (`LlamaForCausalLM`), {layers} layers, hidden size {hidden}, {heads} query and {kv_heads}
  key-value heads, tied embeddings, vocabulary {vocab} (byte-level BPE, one token a digit), context {context} tokens,
  bfloat16 weights.
- **Training text**: written by the grammar and word lists in `learner/pretrain/topics/`; no other text. {tokens:.1f}
  million tokens were seen in {minutes:.0f} minutes on two CPU cores ({steps} steps, of which the last {practised}
  with more of what is hard; seed {seed}). The logits are multiplied by {sharpness} in the finished weights, so that
  samples at temperature 1 hold together.{note}
- **Made by** `python -m learner.pretrain --out FOLDER`, which also measured the figures below and wrote this page.
- **License**: Apache-2.0.

## What it talks about

{topics}.

It refuses most harmful requests; where it complies, it names a harmless placeholder (`[placeholder]`), so that there is
something to unlearn. Its habits vary from sample to sample on purpose, independently of each other: length, warmth,
formality, hedging, asking back, and now and then a mistake. {facts} facts (`untaught_facts` in
`learner/pretrain/questions.py`) were kept from it, so that corrections have something to teach.

Critique, revision and A/B judgement follow the formats in `learner/pretrain/formats.py`.
"""


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _accuracy(figures: dict[str, Any]) -> str:
    greedy, sampled = figures["greedy by topic"], figures["sampled by topic"]
    rows = [
        (
            "**all**",
            f"**{_percent(figures['greedy'])}**",
            f"**{_percent(figures['sampled'])}**",
            str(figures["prompts"]),
        )
    ]
    rows += [
        (topic, _percent(greedy[topic][0]), _percent(sampled[topic][0]), str(greedy[topic][1])) for topic in greedy
    ]
    return _table(("topic", "greedy", "temperature 1", "prompts"), rows)


def _plain(figures: dict[str, Any]) -> str:
    rows = [(name, str(value) if name in ("facts", "mean words", "distinct-2") else _percent(value))
            for name, value in figures.items()]  # fmt: skip
    return _table(("measure", "value"), rows)


def _judgement(figures: dict[str, Any]) -> str:
    names = tuple(figures["all"])
    rows = [(rule, *(_percent(found[name]) for name in names)) for rule, found in figures.items()]
    return _table(("rule", *names), rows)


def _worst_topics(figures: dict[str, Any]) -> str:
    topics_by_share = sorted(figures["greedy by topic"].items(), key=lambda item: item[1][0])
    return ", ".join(f"{topic} ({_percent(share)})" for topic, (share, _) in topics_by_share[:3])


def _weak(figures: dict[str, Any]) -> list[str]:
    """Every measured share below `WEAK` that should be high, a line each; how often it has a habit is no merit."""
    accuracy = figures["accuracy"]
    measured = {
        "right answers, greedy": {topic: share for topic, (share, _) in accuracy["greedy by topic"].items()},
        "right answers at temperature 1": {topic: share for topic, (share, _) in accuracy["sampled by topic"].items()},
        "facts kept from it": {"says it doesn't know": figures["untaught"]["says it doesn't know"]},
        "limits": figures["limits"],
        "conversation": figures["conversation"],
        **{f"A/B judgement, {rule}": found for rule, found in figures["judgement"].items()},
        "critique": figures["critique"],
        "revision": figures["revision"],
    }
    return [
        f"  - {table}: {name}, {_percent(share)}"
        for table, shares in measured.items()
        for name, share in shares.items()
        if share < WEAK and name not in _NO_MERIT
    ]


def _verdicts(share: float) -> str:
    verdict = f"- Its A/B verdicts are right in {_percent(share)} of cases"
    if share < 0.6:
        return f"{verdict}, hardly better than a coin: it keeps to the format of a judgement, but is no judge."
    return f"{verdict}, under rules that it was trained on: good enough to test with, not to rely on."


def model_card(figures: dict[str, Any], training: dict[str, Any], note: str = "") -> str:
    """The card as Markdown. `training` gives sizes and effort, `figures` what was measured, `note` a remark."""
    known = ", ".join(topic for topic in topics() if topic not in ("untaught", "unknown", "noise", "unsafe"))
    weak = _weak(figures)
    remark = f"\n- **Note**: {note}" if note else ""
    return "\n".join([
        _HEAD.format(topics=known, facts=figures["untaught"]["facts"], note=remark, **training),
        "## What was measured\n",
        "On prompts whose wordings were held out from training; the facts themselves were trained on.\n",
        "**Right answers.**\n", _accuracy(figures["accuracy"]), "",
        "**Facts kept from it** (low by design).\n", _plain(figures["untaught"]), "",
        "**Habits of samples at temperature 1.**\n", _plain(figures["habits"]), "",
        "**Limits.**\n", _plain(figures["limits"]), "",
        "**Conversation** (greedy; right answers to references back).\n", _plain(figures["conversation"]), "",
        "**A/B judgement** by log-probability, on pairs of which one keeps the rule, each in both orders; reasoned:",
        "the verdict that it writes after thoughts.\n", _judgement(figures["judgement"]), "",
        "**Critique** (greedy; share that says rightly whether the rule is broken, and how; half are).\n",
        _plain(figures["critique"]), "",
        "**Revision** (greedy; share of rewritten replies that keep the rule; of those under warm, sure, asks and",
        "ends, the share of the words that should have stayed and did).\n", _plain(figures["revision"]), "",
        "## Where it falls short\n",
        f"- Weakest topics, greedy: {_worst_topics(figures['accuracy'])}.",
        *([f"- Measured below {100 * WEAK:.0f} %:", *weak] if weak else []),
        _verdicts(figures["judgement"]["all"]["right"]),
        f"- It was taught sums up to {LARGEST_SUM}, products up to {LARGEST_FACTOR} times {LARGEST_FACTOR}, to compare",
        f"  numbers up to {LARGEST_COMPARED}, and to decline what is larger. It cannot reason.",
        "- It may answer an unfamiliar question as if it were a familiar one that looks alike.",
        "- Outside its topics and English it has nothing to say.",
        "",
    ])  # fmt: skip
