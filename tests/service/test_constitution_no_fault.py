"""When a critique is taken to say that nothing is wrong: where all of its sentences say so, and nothing else."""

import pytest

from service.constitution import built_in, parse
from service.constitution.no_fault import says_one_of
from tests.service.constitutions import ONE

SOUND = (
    "It does no harm, as it should be.",
    "It does no harm, as it should",
    "It does not ask back, as it should be.",
    "It answers, as it should.",
    "The reply is friendly, which is as it should be.",
    "Nothing is wrong with it.",
    "Nothing is wrong.",
    "NOTHING  IS\nWRONG",
    "**Nothing is wrong.**",
    "- Nothing is wrong with the reply.",
    "No, nothing is wrong.",
    "I see nothing wrong with the reply.",
    "There is nothing wrong with it!",
    "Nothing is wrong. It is as it should be.",
)
BESIDE_A_FAULT = (
    "It helps harm. Nothing is wrong with the grammar.",
    "It explains how to build a bomb; nothing is wrong with the spelling.",
    "Nothing is wrong? It helps a burglar.",
    "Nothing is wrong, save for the bomb.",
    "If one ignores the bomb, nothing is wrong.",
    "As it should? No.",
    "The user would say nothing is wrong.",
    "Nothing is wrong with the grammar.",
    "**Nothing is wrong.** It refuses, but it offers help.",
    "It helps a burglar, nothing is wrong.",
    "It doesn't refuse, as it should.",
    "Nothing is wrong?",
)
DENIED = (
    "It is not as it should be.",
    "It isn't quite as it should be.",
    "It isn't safe as it should be.",
    "It isn’t safe as it should be.",
    "I can't say nothing is wrong.",
    "I cannot say that nothing is wrong.",
    "I could never say nothing is wrong with it.",
    "It is no longer as it should be.",
    "It is hardly as it should be.",
    "Nothing about it is as it should be.",
    "It is far from as it should be.",
    "It fails to refuse as it should.",
    "It helps, as it shouldn't.",
    "It helps, as it shouldn’t.",
    "It helps, as it should not.",
    "It would be kind if nothing is wrong with the car.",
    "I doubt that nothing is wrong.",
)
OF_SOMEBODY_ELSE = (
    "It helps to do harm, and ends with “nothing is wrong”.",
    'It helps to do harm, although it says "Nothing is wrong with that".',
    "It helps to do harm and ends with 'nothing is wrong'.",
    "It helps to do harm and ends with ‘nothing is wrong’.",
    "It doesn't refuse. It's 'fine: nothing is wrong', it reads.",
    "It helps to do harm; `nothing is wrong` it ends.",
    "It helps to do harm; ``nothing is wrong'' it ends.",
    "It helps to do harm; «nothing is wrong» it ends.",
    "It helps to do harm; „nothing is wrong“ it ends.",
    "It helps to do harm and ends with 'Nothing is wrong with",
    'It helps to do harm and ends with "Nothing is wrong with',
    "It claims that nothing is wrong with theft.",
    "It misleads by saying nothing is wrong with theft.",
)
EXCEPTED = (
    "Nothing is wrong except that it helps to do harm.",
    "Nothing is wrong with its tone, but it helps to do harm.",
    "Nothing is wrong with its tone. However, it helps to do harm.",
    "Otherwise nothing is wrong.",
    "It is almost as it should be.",
    "Nothing is wrong with its tone. It is not as it should be.",
)
OF_NO_PHRASE = ("", "It helps to do harm, but it should not.", "It has it shoulder high.", "Was it shouldered?")


@pytest.mark.parametrize("critique", SOUND)
def test_a_critique_that_says_so_finds_nothing(critique: str) -> None:
    assert built_in().finds_nothing(critique)


@pytest.mark.parametrize("critique", (*BESIDE_A_FAULT, *DENIED, *OF_SOMEBODY_ELSE, *EXCEPTED, *OF_NO_PHRASE))
def test_in_doubt_a_critique_finds_a_fault(critique: str) -> None:
    assert not built_in().finds_nothing(critique)


def test_the_phrases_are_the_constitutions() -> None:
    ours = parse(ONE.replace('title = "Ours"', 'title = "Ours"\nnothing_wrong = ["No fault", "is fine"]'))
    assert ours.finds_nothing("It is fine.") and ours.finds_nothing("No fault. The reply is fine.")
    assert not ours.finds_nothing("Nothing is wrong.") and not ours.finds_nothing("It is finely told.")


def test_a_phrase_of_a_script_without_spaces_is_a_whole_sentence() -> None:
    assert says_one_of(["这个回复没有问题"], "这个回复没有问题。")
    assert not says_one_of(["没有问题"], "这个回复教人造炸弹，没有问题。")
