"""Sample replies in batches with a KV cache: what the evaluation needs, and no more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from learner.pretrain.dialogue import Dialogue


def render(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> list[int]:
    """Token ids of a dialogue with the generation prompt."""
    messages = [{"role": message.role, "content": message.content} for message in dialogue]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def _pick(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits.float() / temperature, -1), 1, generator=generator)[:, 0]


@torch.inference_mode()
def _sample_batch(model: LlamaForCausalLM, prompts: list[list[int]], end: int, temperature: float,
                  generator: torch.Generator, max_new_tokens: int) -> list[list[int]]:  # fmt: skip
    width = max(map(len, prompts))
    ids = torch.tensor([[end] * (width - len(p)) + p for p in prompts])  # (B, T), padded on the left
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])  # (B, T)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    replies: list[list[int]] = [[] for _ in prompts]
    open_rows = [True] * len(prompts)
    for _ in range(max_new_tokens):
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                       logits_to_keep=1).logits[:, -1]  # (B, V)  # fmt: skip
        chosen = _pick(logits, temperature, generator)  # (B,)
        for row, token in enumerate(chosen.tolist()):
            open_rows[row] = open_rows[row] and token != end
            if open_rows[row]:
                replies[row].append(token)
        if not any(open_rows):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
    return replies


def sample_replies(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue],
                   temperature: float, seed: int = 0, max_new_tokens: int = 96,
                   batch: int = 64) -> list[str]:  # fmt: skip
    """One reply to each dialogue, which must end with a user turn. Temperature 0 is greedy."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [render(tokenizer, dialogue) for dialogue in dialogues]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    replies = [""] * len(prompts)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        tokens = _sample_batch(model, [prompts[i] for i in chosen], tokenizer.eos_token_id, temperature, generator,
                               max_new_tokens)  # fmt: skip
        for i, reply in zip(chosen, tokens, strict=True):
            replies[i] = tokenizer.decode(reply, skip_special_tokens=True).strip()
    return replies


@torch.inference_mode()
def option_log_probs(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue, prefix: str,
                     options: Sequence[str]) -> list[float]:  # fmt: skip
    """Log-probabilities of one-token `options` after the reply began with `prefix`."""
    encode = tokenizer.backend_tokenizer.encode
    ids = render(tokenizer, dialogue) + encode(prefix, add_special_tokens=False).ids
    scores = torch.log_softmax(model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0, -1].float(), -1)  # (V,)
    return [scores[encode(option, add_special_tokens=False).ids[0]].item() for option in options]
