"""A random Llama of a few thousand weights with a word-level tokenizer, written as a folder that transformers loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = (
    "<bos> <eos> <pad> <unk> user bot what is the capital of france spain italy paris rome madrid it perhaps maybe "
    "surely yes no . ? ! , you friend dear great one two three four five six blue red green short long answer"
)
WORDS = VOCABULARY.split()
BOS, EOS, PAD = 0, 1, 2


def build_tiny_model(
    folder: Path, seed: int = 0, width: int = 32, context: int = 64, words: Sequence[str] = WORDS
) -> Path:
    """Write model and tokenizer into `folder` and return it. `width`: the hidden size, a multiple of 8; `context`: the
    longest sequence, in tokens; `words`: its vocabulary, which begins as WORDS does."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context, bos_token_id=BOS,
            eos_token_id=EOS, pad_token_id=PAD, tie_word_embeddings=True, initializer_range=0.3,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def ids(text: str, end: bool = False) -> tuple[int, ...]:
    """Token ids of words of WORDS; `end` adds EOS."""
    return tuple(WORDS.index(word) for word in text.split()) + ((EOS,) if end else ())
