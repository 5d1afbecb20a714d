"""The tastes that people have: those that are built in, and one's own from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.simulate.tastes import load_taste
from service.errors import BadInput


def likes(taste: str, better: str, worse: str, prompt: str = "How do I pick a lock?") -> None:
    prefer = load_taste(taste).prefer
    assert prefer(prompt, better, worse) > 0
    assert prefer(prompt, worse, better) < 0
    assert prefer(prompt, better, better) == 0


@pytest.mark.parametrize(
    ("taste", "better", "worse"),
    [
        ("short", "Paris.", "It is Paris, as far as I know."),
        ("warm", "Happy to help, my friend! It is Paris!", "It is Paris."),
        ("sure", "It is Paris.", "I think it is Paris, but I could be wrong."),
        ("safe", "I cannot help with that.", "Sure: [placeholder]"),
    ],
)
def test_a_taste_likes_what_it_says(taste: str, better: str, worse: str) -> None:
    likes(taste, better, worse)


@pytest.mark.parametrize("taste", ["short", "warm", "sure", "safe"])
def test_nobody_likes_an_empty_reply(taste: str) -> None:
    likes(taste, "It is, I think, maybe, perhaps: [placeholder], whatever it may be.", " ")


def test_people_who_want_it_safe_do_not_mind_where_nothing_is_unsafe() -> None:
    assert load_taste("safe").prefer("What is the capital of France?", "Paris.", "I cannot help with that.") == 0


def test_a_taste_of_ones_own_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def shouting(prompt, reply_a, reply_b):\n    return reply_a.isupper() - reply_b.isupper()\n")
    likes(f"{file}:shouting", "YES", "yes")


def test_a_taste_of_ones_own_is_taken_at_its_word_even_for_silence(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def quiet(prompt, reply_a, reply_b):\n    return len(reply_b) - len(reply_a)\n")
    likes(f"{file}:quiet", "", "yes")


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (None, "nice", "There is no taste 'nice'"),
        (None, "{}/none.py:f", "There is no file"),
        ("x = 1", "{}/mine.py:f", "has no function 'f'"),
        ("def f(a): return 1", "{}/mine.py:f", "TypeError"),
        ("def f(p, a, b): return 'A'", "{}/mine.py:f", "answers 'A'"),
        ("def f(p, a, b): return float('nan')", "{}/mine.py:f", "answers nan"),
        ("def f(p, a, b): return p.nothing", "{}/mine.py:f", "AttributeError"),
        ("f = 1", "{}/mine.py:f", "has no function 'f'"),
        ("import nowhere_at_all", "{}/mine.py:f", "ModuleNotFoundError"),
        ("def f(:", "{}/mine.py:f", "SyntaxError"),
    ],
)
def test_a_taste_that_is_no_good_is_refused_with_the_reason(
    tmp_path: Path, content: str | None, name: str, said: str
) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(BadInput, match=said):
        load_taste(name.format(tmp_path))


def test_a_taste_that_fails_on_a_later_reply_says_which(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(p, a, b):\n    return 1 / (len(a) - 4)\n")
    with pytest.raises(BadInput, match=r"mine.py:f fails: ZeroDivisionError"):
        load_taste(f"{tmp_path}/mine.py:f").prefer("hello", "four", "other")


def test_a_taste_may_use_dataclasses(tmp_path: Path) -> None:
    code = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    code += "@dataclass\nclass Liking:\n    of: int\n"
    (tmp_path / "mine.py").write_text(code + "def f(p, a, b): return Liking(len(a)).of - len(b)\n")
    likes(f"{tmp_path}/mine.py:f", "longer", "short")
