"""The dialogues of critique, revision and judgement, and how they are measured: labels follow from the replies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from learner.pretrain import formats
from learner.pretrain.bench import REFUSALS, UNKNOWING, says
from learner.pretrain.dialogue import is_held_out
from learner.pretrain.formats import FAULT, RULES, Aspect
from learner.pretrain.judging import Case, critique, draw_case, draw_pair, judgement, revision

# Whether a reply keeps the rule, as far as that can be seen in the reply alone.
_SEEN: dict[Aspect, Callable[[str], bool]] = {
    "asks": lambda reply: reply.endswith("?"),
    "ends": lambda reply: not reply.endswith("?"),
    "answers": lambda reply: not says(reply, REFUSALS) or says(reply, (*UNKNOWING, "see the weather")),
    "safe": lambda reply: "[placeholder]" not in reply,
}


def _aspect(rule: str) -> Aspect:
    (aspect,) = [aspect for aspect, known in RULES.items() if rule in known.wordings]
    return aspect


def _part(text: str, name: str) -> str:
    match = re.search(rf"^{name}: (.*(?:\n  .*)*)$", text, re.M)
    assert match is not None, text
    return match.group(1)


def test_the_rule_comes_first_in_every_format() -> None:
    prompts = (
        formats.critique_prompt("q", "r", "Be safe."),
        formats.revision_prompt("q", "r", "Be safe.", "c"),
        formats.judge_prompt("q", "a", "b", "Be safe."),
        formats.judge_prompt("q", "a", "b", "Be safe.", reasoned=True),
    )
    assert len(set(prompts)) == 4
    assert all(prompt.startswith("Rule: Be safe.\nQuestion: q\n") for prompt in prompts)


def test_no_wording_belongs_to_two_rules() -> None:
    wordings = [wording for rule in RULES.values() for wording in rule.wordings]
    assert len(set(wordings)) == len(wordings)
    for rule in RULES.values():
        assert FAULT in rule.broken and FAULT not in rule.kept


@pytest.mark.parametrize("aspect", RULES)
def test_a_case_breaks_and_keeps_its_rule_and_is_about_the_prompts_asked_for(aspect: Aspect) -> None:
    rng = Random(1)
    for held_out in (False, True):
        for _ in range(60):
            case, good, bad = draw_pair(rng, aspect, held_out)
            assert case.aspect == aspect and is_held_out(case.text) == held_out
            assert case.kept != case.broken and good != bad
            assert (aspect == "safe") <= case.exchange.unsafe
            if aspect == "short":
                assert len(good.split()) < len(bad.split())
            if seen := _SEEN.get(aspect):
                assert seen(case.kept) and not seen(case.broken) and seen(good) and not seen(bad)


def test_a_revision_keeps_the_words_that_the_rule_does_not_touch() -> None:
    rng = Random(2)
    for _ in range(200):
        asked = draw_case(rng, "asks")
        assert asked.kept.startswith(asked.broken)
        ended = draw_case(rng, "ends")
        assert ended.broken.startswith(ended.kept)


def test_critiques_follow_from_the_replies_and_half_find_no_fault() -> None:
    rng = Random(3)
    faults = 0
    for _ in range(600):
        prompt, said = critique(rng)
        rule = RULES[aspect := _aspect(_part(prompt.content, "Rule"))]
        assert said.content in (rule.kept, rule.broken)
        faults += FAULT in said.content
        if seen := _SEEN.get(aspect):
            assert seen(_part(prompt.content, "Reply")) == (FAULT not in said.content)
    assert 240 < faults < 360


def test_a_reply_that_breaks_its_rule_is_rewritten_and_one_that_keeps_it_is_left_alone() -> None:
    rng = Random(4)
    for _ in range(600):
        prompt, said = revision(rng)
        aspect = _aspect(_part(prompt.content, "Rule"))
        fault = FAULT in _part(prompt.content, "Critique")
        assert (said.content != _part(prompt.content, "Reply")) == fault
        if seen := _SEEN.get(aspect):
            assert seen(said.content)


def test_verdicts_are_balanced_and_follow_from_the_replies() -> None:
    rng = Random(5)
    verdicts, by_request = Counter[str](), Counter[Aspect]()
    unsafe = reasoned = 0
    for _ in range(800):
        prompt, said = judgement(rng)
        aspect = _aspect(_part(prompt.content, "Rule"))
        letter = said.content[-1]
        other = "B" if letter == "A" else "A"
        verdicts[letter] += 1
        unsafe += aspect == "safe"
        if aspect in ("answers", "safe"):  # what is better is the same under both
            aspect = "safe" if "[placeholder]" in _part(prompt.content, other) else "answers"
            by_request[aspect] += 1
        if prompt.content.endswith("Think first."):
            reasoned += 1
            assert f"{letter} {RULES[aspect].keeping}" in said.content
            assert said.content.endswith(f" Better: {letter}")
        else:
            assert said.content == f"Better: {letter}"
        if seen := _SEEN.get(aspect):
            assert seen(_part(prompt.content, letter)) and not seen(_part(prompt.content, other))
        if aspect == "short":
            assert len(_part(prompt.content, letter).split()) < len(_part(prompt.content, other).split())
    assert set(verdicts) == {"A", "B"} and min(verdicts.values()) > 350
    assert min(by_request["safe"], by_request["answers"]) > 60
    assert unsafe > 100 and 200 < reasoned < 330


def test_thoughts_say_what_both_replies_are_like() -> None:
    assert formats.verdict("A", RULES["short"]) == "A is short, B is long. Better: A"
    assert formats.verdict("B", RULES["asks"]) == "A does not ask back, B asks back. Better: B"
    assert formats.verdict("B") == "Better: B"


def test_refusing_replaces_what_complies() -> None:
    rng = Random(6)
    for _ in range(100):
        case: Case = draw_case(rng, "safe")
        assert says(case.kept, REFUSALS) and "[placeholder]" in case.broken
