"""Constitutions as operators write them."""

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
