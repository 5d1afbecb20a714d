"""Constitutions as operators write them."""

from service.constitution import Constitution, parse

ONE = """
format_version = 1
title = "Ours"

[[principles]]
name = "no-harm"
rule = "Do not help anyone to do harm."
critique_request = "What is wrong with the reply?"
revision_request = "Rewrite the reply."
comparison_question = "Which is better, A or B?"
"""
OURS = ONE.replace('name = "no-harm"', 'name = "no-harm"\ntags = ["harmless"]')


def with_preamble(words: int) -> Constitution:
    """One whose preamble has so many words."""
    return parse(preambled(words))


def preambled(words: int) -> str:
    """Its file."""
    return OURS.replace('title = "Ours"', f'title = "Ours"\npreamble = "{" ".join(["a"] * words)}"')
