"""Write the finished model as a folder that transformers, PEFT and vLLM load as it is."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from learner.pretrain.tokenizer import save_tokenizer


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, sharpness: float = 1.0) -> None:
    """Write weights (rounded to bfloat16), configurations and tokenizer to `folder`.

    Logits are multiplied by `sharpness`, in the weights (of the last norm): what the model samples at temperature 1 is
    what training left it with at temperature 1 / sharpness. Changes `model`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        model.model.norm.weight.mul_(sharpness)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        do_sample=True, temperature=1.0, top_p=1.0, max_new_tokens=128,
    )  # fmt: skip
    rounded = model.to(torch.bfloat16)
    rounded.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
    save_tokenizer(tokenizer, folder)
