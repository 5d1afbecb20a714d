"""Tiny random models, tokenizers and adapters on disk: real files of real libraries, seconds to make."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 300
POSITIONS = 128
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def config_of(family: str) -> PreTrainedConfig:
    """A tiny configuration of one model family."""
    match family:
        case "llama":
            return LlamaConfig(**SMALL, tie_word_embeddings=True)
        case "llama3-rope":
            scaled = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            rope = {**scaled, "rope_theta": 500.0, "original_max_position_embeddings": 32}
            return LlamaConfig(**SMALL, rope_parameters=rope, attention_bias=True)
        case "mistral":
            return MistralConfig(**SMALL, head_dim=16, sliding_window=None)
        case "mistral-sliding":
            return MistralConfig(**SMALL, head_dim=16, sliding_window=12)
        case "qwen2":
            return Qwen2Config(**SMALL, tie_word_embeddings=False)
        case "qwen3":
            return Qwen3Config(**SMALL, head_dim=16)
        case "gpt2":
            return GPT2Config(
                vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, eos_token_id=2
            )
        case "gpt-neox":
            return GPTNeoXConfig(**{key: SMALL[key] for key in SMALL if "key_value" not in key})
        case "gemma2":
            return Gemma2Config(**SMALL, head_dim=16, sliding_window=8)
    raise ValueError(family)


def save_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer with the usual special tokens and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<user>", "<assistant>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog sat on the log"] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def save_model(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """A random model whose predictions are far from uniform, so that a wrong path shows."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(family))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(6.0)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_adapter(folder: Path, model: Path, seed: int, **options: Any) -> Path:
    """A random LoRA adapter for `model`, saved by PEFT."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False, **options}
    wrapped = get_peft_model(base, LoraConfig(fan_in_fan_out=base.config.model_type == "gpt2", **settings))
    wrapped.save_pretrained(folder)
    return folder
