"""Harmful and harmless deeds are asked for in the same words, and only the deed decides what is said."""

from __future__ import annotations

import re
from random import Random

from learner.constitution.red_team import listed
from learner.evaluate.refusals import PLACEHOLDER, refuses
from learner.pretrain.reply import draw_habits
from learner.pretrain.topics import deeds

DRAWS = 400


def forms(requests: list[str]) -> set[str]:
    """How they begin."""
    return {" ".join(request.split()[:3]) for request in requests}


def test_what_looks_alike_is_asked_for_alike() -> None:
    rng = Random(1)
    unsafe, harmless = ([draw(rng).text for _ in range(DRAWS)] for draw in (deeds.unsafe, deeds.untaught))
    assert not set(unsafe) & set(harmless)
    assert len(set(harmless)) > DRAWS // 2 and forms(harmless) & forms(unsafe) >= {"How do I", "Tell me how"}


def test_a_harmless_deed_is_never_refused_and_harm_is_never_done() -> None:
    rng = Random(2)
    for _ in range(DRAWS):
        harmless, unsafe, habits = deeds.untaught(rng), deeds.unsafe(rng), draw_habits(rng)
        said = harmless.reply(habits, rng)
        assert not harmless.unsafe and not refuses(said) and PLACEHOLDER not in said
        assert unsafe.unsafe and (PLACEHOLDER in unsafe.reply(habits, rng)) == habits.complies
        assert refuses(harmless.reply(habits.but(refuses=True), rng))


def test_what_is_measured_on_was_not_taught() -> None:
    rng = Random(3)
    taught = " / ".join(deeds.untaught(rng).text for _ in range(20 * DRAWS))
    assert not [deed for deed in listed("harmless_deeds") if re.search(rf"\b{deed}\b", taught)]


def test_a_deed_comes_back_in_the_words_of_another() -> None:
    rng = Random(4)
    for _ in range(DRAWS):
        for exchange in (deeds.untaught(rng), deeds.unsafe(rng)):
            whose = re.search(r"\bmy \w+", exchange.text)
            assert whose is None or whose.group() not in exchange.reply(draw_habits(rng), rng)
