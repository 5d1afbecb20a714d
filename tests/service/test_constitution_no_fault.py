"""When a critique is taken to say that nothing is wrong: in words of its own, undenied, and without an exception."""

import pytest

from service.constitution import built_in, parse
from service.constitution.no_fault import says_one_of
from tests.service.constitutions import ONE

SOUND = (
    "It does no harm, as it should be.",
    "It does not ask back, as it should be.",
    "It doesn't refuse, as it should.",
    "Nothing is wrong with it.",
    "Nothing is wrong.",
    "NOTHING  IS\nWRONG",
    "**Nothing is wrong.** It refuses, but it offers help.",
    "No, nothing is wrong.",
    "I see nothing wrong with the reply.",
    "The user's wish isn't granted; nothing is wrong with that.",
    "Nothing is wrong, and it is as it should be.",
    "It calls the thief a 'borrower', which is as it should be.",
    "It can’t help, which is as it should be.",
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


@pytest.mark.parametrize("critique", (*DENIED, *OF_SOMEBODY_ELSE, *EXCEPTED, *OF_NO_PHRASE))
def test_in_doubt_a_critique_finds_a_fault(critique: str) -> None:
    assert not built_in().finds_nothing(critique)


def test_the_phrases_are_the_constitutions_and_none_speaks_against_another() -> None:
    ours = parse(ONE.replace('title = "Ours"', 'title = "Ours"\nnothing_wrong = ["No fault", "is fine"]'))
    assert ours.finds_nothing("It is fine.") and ours.finds_nothing("No fault was found and it is fine.")
    assert not ours.finds_nothing("Nothing is wrong.") and not ours.finds_nothing("It is finely told.")


def test_a_phrase_may_be_of_a_script_without_spaces() -> None:
    assert says_one_of(["没有问题"], "这个回复没有问题。")
