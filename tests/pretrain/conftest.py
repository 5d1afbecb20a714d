"""The committed model, loaded once."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from service.settings import SPROUT


@pytest.fixture(scope="session")
def sprout() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(SPROUT, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def sprout_tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(SPROUT)
