"""Feedback from principles: the model criticises, revises and compares replies, and a run learns from what it says.

Constitutional AI (Bai et al., arXiv 2212.08073). How the model is asked, in words, is `service.constitution`'s; here it
is asked in-process, in batches, and what it says becomes examples.
"""
