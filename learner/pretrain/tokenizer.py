"""The tokenizer of the built-in model: byte-level BPE trained on its own text, digits one token each, a chat template.

A conversation is `<|bos|>`, then per turn a role token, the text and `<|end|>`; nothing is added between turns, so the
rendering of a longer conversation begins with that of the shorter one. `<|end|>` ends every turn and is the EOS token;
padding has a token of its own, so that EOS is trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from learner.pretrain.dialogue import Dialogue
from learner.pretrain.formats import VERDICT_PREFIX

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
VOCAB_SIZE = 2048
CONTEXT = 1024

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Unknown role ' + message['role'] + ': use system, user or assistant.') }}"
    "{% endif %}"
    "{% if message['content'] is string %}{% set text = message['content'] %}"
    "{% else %}{% set text = message['content'] | map(attribute='text') | join('') %}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + text | trim + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(dialogues: Iterable[Dialogue], vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """Train the vocabulary on the texts of `dialogues`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, END, *ROLES.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((message.content for dialogue in dialogues for message in dialogue), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=END, pad_token=PAD,
        additional_special_tokens=list(ROLES.values()), chat_template=CHAT_TEMPLATE, model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False, padding_side="left",
    )  # fmt: skip


USER_WEIGHT = 0.1
KEY_WEIGHT = 4.0
"""Weight of the loss on tokens that carry an answer; the manner of a reply takes many more tokens than what it says."""
VERDICT_WEIGHT = 12.0
"""The same for the letter of a verdict: one token, for a comparison of two whole replies."""


def encode_dialogue(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> tuple[list[int], list[float]]:
    """Token ids as the chat template gives them, and for each the weight of the loss for predicting it.

    One on what the assistant writes, END included, and more on the key of a reply; little on the rest, none on BOS.
    """
    fast = tokenizer.backend_tokenizer
    ids: list[int] = [tokenizer.bos_token_id]
    weights = [0.0]
    for message in dialogue:
        text = message.content.strip()
        encoded = fast.encode(text, add_special_tokens=False)
        ids += [fast.token_to_id(ROLES[message.role]), *encoded.ids, tokenizer.eos_token_id]
        if message.role == "assistant":
            key_weight = VERDICT_WEIGHT if text.startswith(VERDICT_PREFIX) else KEY_WEIGHT
            pattern = rf"(?<!\w){re.escape(message.key)}(?!\w)"
            keys = [match.span() for match in re.finditer(pattern, text, re.I)] if message.key else []
            inside = [any(a < end and b > start for start, end in keys) for a, b in encoded.offsets]
            weights += [USER_WEIGHT, *(key_weight if key else 1.0 for key in inside), 1.0]
        else:
            weights += [USER_WEIGHT] * (len(encoded.ids) + 2)
    return ids, weights


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json; the template is in the latter, where every reader looks."""
    tokenizer.save_pretrained(folder)
    separate = folder / "chat_template.jinja"
    separate.unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    config["chat_template"] = CHAT_TEMPLATE
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
