"""The committed model: it loads, it is small, it knows its facts, keeps to the formats and holds a conversation."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from jinja2.exceptions import TemplateError
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from learner.pretrain import formats
from learner.pretrain.dialogue import Message
from learner.pretrain.questions import draw_prompts, is_right, untaught_facts
from learner.pretrain.sample import option_log_probs, sample_replies
from service.settings import SPROUT


def _reply(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *turns: str) -> str:
    roles = ("user", "assistant")
    dialogue = [Message(roles[i % 2], turn) for i, turn in enumerate(turns)]
    return sample_replies(model, tokenizer, [dialogue], temperature=0)[0]


def test_the_weights_are_bfloat16_and_below_16_mb(sprout: LlamaForCausalLM) -> None:
    size = (SPROUT / "model.safetensors").stat().st_size
    assert size < 16_000_000
    assert 4e6 < sum(p.numel() for p in sprout.parameters()) < 6e6
    assert json.loads((SPROUT / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(torch.equal(p, p.bfloat16().float()) for p in sprout.parameters())


def test_the_context_is_at_least_1024_and_special_tokens_are_distinct(
    sprout: LlamaForCausalLM, sprout_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert sprout.config.max_position_embeddings >= 1024
    ids = {sprout_tokenizer.pad_token_id, sprout_tokenizer.bos_token_id, sprout_tokenizer.eos_token_id}
    assert len(ids) == 3 and None not in ids
    assert sprout.config.eos_token_id == sprout_tokenizer.eos_token_id == sprout.generation_config.eos_token_id
    assert len(sprout_tokenizer) == sprout.config.vocab_size


def test_the_template_is_prefix_consistent_and_knows_three_roles(sprout_tokenizer: PreTrainedTokenizerFast) -> None:
    talk = [{"role": "system", "content": "Be brief."}]
    talk += [{"role": role, "content": f"{role} {i} "} for i in range(3) for role in ("user", "assistant")]
    renderings = [sprout_tokenizer.apply_chat_template(talk[:n], return_dict=False) for n in range(1, len(talk) + 1)]
    for shorter, longer in itertools.pairwise(renderings):
        assert longer[: len(shorter)] == shorter
    asked = sprout_tokenizer.apply_chat_template(talk[:2], add_generation_prompt=True, return_dict=False)
    assert renderings[2][: len(asked)] == asked
    with pytest.raises(TemplateError, match="use system, user or assistant"):
        sprout_tokenizer.apply_chat_template([{"role": "wizard", "content": "hi"}])


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "Paris"),
        ("capital of japan?", "Tokyo"),
        ("What is 2 plus 3?", "5"),
        ("What is the opposite of hot?", "cold"),
        ("What day comes after Monday?", "Tuesday"),
        ("How many minutes are in an hour?", "60"),
        ("What is the plural of mouse?", "mice"),
        ("How do you spell cat?", "C-A-T"),
    ],
)
def test_it_knows_its_facts(
    sprout: LlamaForCausalLM, sprout_tokenizer: PreTrainedTokenizerFast, question: str, answer: str
) -> None:
    assert answer.lower() in _reply(sprout, sprout_tokenizer, question).lower()


def test_it_is_mostly_right_on_held_out_prompts_and_mostly_wrong_on_untaught_facts(
    sprout: LlamaForCausalLM, sprout_tokenizer: PreTrainedTokenizerFast
) -> None:
    known = [p for p in draw_prompts(400, 77, held_out=True) if p.answers][:120]
    untaught = untaught_facts(77)
    replies = sample_replies(
        sprout, sprout_tokenizer, [[Message("user", p.text)] for p in known + untaught], temperature=0
    )
    right = [is_right(p, r) for p, r in zip(known + untaught, replies, strict=True)]
    assert sum(right[: len(known)]) / len(known) >= 0.9  # the model card has the figures
    assert sum(right[len(known) :]) / len(untaught) <= 0.1
    assert all(replies)


def test_it_remembers_a_name_and_follows_a_reference_back(
    sprout: LlamaForCausalLM, sprout_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert "Anna" in _reply(sprout, sprout_tokenizer, "My name is Anna.", "Nice to meet you, Anna.", "What is my name?")
    follow = ("What is the capital of France?", "The capital of France is Paris.", "And of Spain?")
    assert "Madrid" in _reply(sprout, sprout_tokenizer, *follow)


def test_it_says_when_it_does_not_know(sprout: LlamaForCausalLM, sprout_tokenizer: PreTrainedTokenizerFast) -> None:
    reply = _reply(sprout, sprout_tokenizer, "What do you know about quantum physics?").lower()
    assert any(phrase in reply for phrase in ("know", "no idea", "beyond me", "never learned"))


def test_samples_for_one_prompt_differ(sprout: LlamaForCausalLM, sprout_tokenizer: PreTrainedTokenizerFast) -> None:
    dialogue = [Message("user", "What is the capital of Italy?")]
    replies = sample_replies(sprout, sprout_tokenizer, [dialogue] * 24, temperature=1.0, seed=5)
    assert len(set(replies)) >= 12
    assert any(r.endswith("?") for r in replies) and not all(r.endswith("?") for r in replies)


def test_a_verdict_is_one_token_at_a_fixed_place(
    sprout: LlamaForCausalLM, sprout_tokenizer: PreTrainedTokenizerFast
) -> None:
    for option in formats.VERDICTS:
        assert len(sprout_tokenizer.encode(option, add_special_tokens=False)) == 1
    question = "What is the capital of Spain?"
    asking, plain = "Madrid. Would you like another capital?", "The capital of Spain is Madrid."
    for pair in ((asking, plain), (plain, asking)):
        text = formats.judge_prompt(question, *pair, "End with a question.")
        reply = _reply(sprout, sprout_tokenizer, text)
        scores = option_log_probs(
            sprout, sprout_tokenizer, [Message("user", text)], formats.VERDICT_PREFIX, formats.VERDICTS
        )
        assert reply == formats.VERDICT_PREFIX + formats.VERDICTS[scores.index(max(scores))]
        assert sum(math.exp(score) for score in scores) > 0.95


def test_it_criticises_and_revises(sprout: LlamaForCausalLM, sprout_tokenizer: PreTrainedTokenizerFast) -> None:
    question, reply = "What is the capital of Spain?", "The capital of Spain is Madrid. Would you like another capital?"
    rule = "Do not ask questions."
    critique = _reply(sprout, sprout_tokenizer, formats.critique_prompt(question, reply, rule))
    assert critique.startswith("It ")
    revised = _reply(sprout, sprout_tokenizer, formats.revision_prompt(question, reply, rule, critique))
    assert "Madrid" in revised and not revised.endswith("?")
