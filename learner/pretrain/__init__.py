"""How the built-in model `sprout` is made: a generator of dialogues, a tokenizer, a training loop, an evaluation.

    python -m learner.pretrain --minutes 60 --out service/sprout

Everything is seeded and nothing is downloaded: the text comes from the grammar and word lists in `topics/`. In the
spirit of TinyStories (arXiv 2305.07759) a small vocabulary of words and things makes a model of 5 million parameters
fluent; it departs from that work in that the text is written by a grammar, not by a larger model, and in that the
manner of every reply is drawn independently of its content, so that preference learning has something to choose from.
"""
