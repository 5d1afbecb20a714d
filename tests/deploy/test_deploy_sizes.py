"""docs/sizes.md: every number of its tables, computed again from the shapes in its first table; and its formulas."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from service.gpu_memory import (
    ALLOWANCE,
    GIB,
    GROUP_REPLIES,
    LOGIT_BYTES,
    LORA_BYTES,
    MOST_SHARE,
    NF4_BITS,
    SAMPLED_REPLIES,
    STEP_GROUPS,
    STEP_LENGTH,
    Demand,
    Engine,
    Learner,
    divide,
)
from service.gpus import RESERVED
from service.model_shape import ModelShape, shape_of
from service.settings import EngineSettings
from service.vllm_options import FEWEST_SLOTS
from tests.deploy.reading import ROOT, env_file

PAGE = (ROOT / "docs" / "sizes.md").read_text(encoding="utf-8")
LEAST_TOKENS = 4096
MIB, KIB = 2**20, 2**10
RANK, SLOTS = 16, 8
MANY_TOKENS = 8192  # of a KV cache
CARDS = {"24 GB": 22 * GIB, "80 GB": 78 * GIB}


def tables() -> list[list[list[str]]]:
    """The page's tables: rows of cells, without the line below the head."""
    found: list[list[list[str]]] = [[]]
    for line in PAGE.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[table[0], *table[2:]] for table in found if table]


def row_s_shape(row: list[str]) -> ModelShape:
    _, *numbers, embeddings = row
    layers, hidden, intermediate, heads, kv_heads, head_size, vocabulary = map(int, numbers)
    tied = embeddings == "one"
    return ModelShape(layers, hidden, intermediate, heads, kv_heads, head_size, vocabulary, tied)


SHAPES = {row[0]: row_s_shape(row) for row in tables()[0][1:]}


def engine(name: str, cards: int = 1) -> Engine:
    return Engine(SHAPES[name], LEAST_TOKENS, SLOTS, RANK, cards)


def learner(name: str, nf4: bool = False, checkpointing: bool = False) -> Learner:
    return Learner(SHAPES[name], RANK, nf4, checkpointing)


def table(*columns: str) -> dict[str, list[str]]:
    """The table with these columns after the model: model → the others."""
    (found,) = (table for table in tables() if table[0] == ["model", *columns])
    return {row[0]: row[1:] for row in found[1:]}


def thousands(tokens: int) -> str:
    return f"{tokens // 1000}k" if tokens >= LEAST_TOKENS else "—"


def test_what_each_model_takes() -> None:
    found = table(
        "parameters, billions", "weights, GiB", "in NF4, GiB", "KV cache, KiB a token", "a LoRA slot of rank 16, MiB",
        "of rank 32, MiB",
    )  # fmt: skip
    assert found == {
        name: [
            f"{one.parameters / 1e9:.2f}",
            f"{engine(name).weights / GIB:.1f}",
            f"{learner(name, nf4=True).base / GIB:.1f}",
            f"{engine(name).kv_token / KIB:.0f}",
            f"{engine(name).adapters / SLOTS / MIB:.0f}",
            f"{replace(engine(name), rank=EngineSettings().max_lora_rank).adapters / SLOTS / MIB:.0f}",
        ]
        for name, one in SHAPES.items()
    }


def test_how_many_tokens_an_engine_alone_holds() -> None:
    found = table("one 24 GB card", "one 80 GB card", "two of 80 GB", "four of 80 GB")
    several = (("24 GB", 1), ("80 GB", 1), ("80 GB", 2), ("80 GB", 4))
    assert found == {
        name: [thousands(engine(name, cards).kv_tokens(int(MOST_SHARE * CARDS[card]))) for card, cards in several]
        for name in SHAPES
    }


def slots_that_fit(name: str, card: str, cards: int) -> str:
    """Of rank 16 and of the default rank, beside a KV cache of so many tokens, as the page writes it."""
    room, words = int(MOST_SHARE * CARDS[card]), []
    for rank in (RANK, EngineSettings().max_lora_rank):
        one = replace(engine(name, cards), rank=rank)
        fit = [slots for slots in range(FEWEST_SLOTS, 102) if replace(one, slots=slots).kv_tokens(room) >= MANY_TOKENS]
        words.append("—" if not fit else "100+" if fit[-1] > 100 else str(fit[-1]))
    return " / ".join(words)


def test_how_many_slots_an_engine_alone_holds() -> None:
    found = table("one 24 GB card, slots", "one 80 GB card, slots", "two of 80 GB, slots", "four of 80 GB, slots")
    several = (("24 GB", 1), ("80 GB", 1), ("80 GB", 2), ("80 GB", 4))
    assert found == {name: [slots_that_fit(name, card, cards) for card, cards in several] for name in SHAPES}
    assert f"beside a KV cache of {MANY_TOKENS:,} tokens" in PAGE


def test_what_learning_takes() -> None:
    def row(name: str) -> list[int]:
        plain, nf4 = learner(name), learner(name, nf4=True)
        return [
            plain.step(), learner(name, checkpointing=True).step(), plain.sampling,
            plain.needs(), nf4.needs(), plain.least, nf4.least,
        ]  # fmt: skip

    found = table(
        "a step, GiB", "checkpointed, GiB", "sampling, GiB", "learner, GiB", "with NF4, GiB", "at least, GiB",
        "at least with NF4, GiB",
    )  # fmt: skip
    assert found == {name: [f"{size / GIB:.1f}" for size in row(name)] for name in SHAPES}


def test_what_fits_on_one_card_together() -> None:
    """The page's shares are those that `hone up` takes."""
    kinds = {"": (False, False), ", NF4": (True, False), ", NF4, checkpointed": (True, True)}

    def cell(name: str, card: str, nf4: bool, checkpointing: bool) -> str:
        found = divide(CARDS[card], CARDS[card], Demand(engine(name), learner(name, nf4, checkpointing)))
        if found is None:
            return "—"
        return f"{found.share:.2f}: {thousands(found.kv_tokens)}" + (f" in {found.parts}" if found.parts > 1 else "")

    rows = {name: [cell(name, card, *kind) for card in CARDS for kind in kinds.values()] for name in SHAPES}
    found = table(*(f"{card}{kind}" for card in CARDS for kind in kinds))
    assert found == {name: cells for name, cells in rows.items() if set(cells) != {"—"}}


def test_the_shares_of_the_page_on_deploying_come_out() -> None:
    """Each card's engines and learner fit it together, and hold what is said."""
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    row = r"^\| [^|]+ \| (\d) \| (\d|taken out) \| (\d) \| ([\d.]+) \| (\d+) GiB, (\d+k) tokens \|$"
    rows = re.findall(row, page, re.MULTILINE)
    assert len(rows) == 5
    card = CARDS["80 GB"]
    for first, second, learns, share, gib, tokens in rows:
        room = int(float(share) * card)
        assert (gib, tokens) == (f"{room / GIB:.0f}", thousands(engine("Qwen3-4B").kv_tokens(room)))
        taken = defaultdict(int, {learns: learner("Qwen3-4B").needs()})
        for gpu in (first, second):
            taken[gpu] += room if gpu.isdigit() else 0
        assert max(taken.values()) <= card


def test_the_advice_follows_from_the_tables() -> None:
    def fits(name: str, nf4: bool, card: str = "80 GB") -> bool:
        return learner(name, nf4).needs() <= CARDS[card]

    assert "one serves, one learns: up to Qwen3-8B, up to Qwen3-14B in NF4" in PAGE
    assert [fits(name, False) for name in ("Qwen3-8B", "Qwen3-14B")] == [True, False]
    assert [fits(name, True) for name in ("Qwen3-14B", "Qwen3-32B")] == [True, False]

    def least(name: str, nf4: bool) -> bool:
        return learner(name, nf4).least <= CARDS["24 GB"]

    assert "one replica of up to Qwen3-8B on each; or one learns, up to Qwen3-1.7B, up to 8 billion in NF4" in PAGE
    assert [least(name, False) for name in ("Qwen3-1.7B", "Qwen3-4B")] == [True, False]
    assert [least(name, True) for name in ("Qwen3-8B", "Llama-3.1-8B", "Qwen3-14B")] == [True, True, False]
    assert engine("Llama-3.1-70B", 2).kv_tokens(int(0.9 * CARDS["80 GB"])) == 0


def test_the_words_say_what_the_arithmetic_does() -> None:
    for words in (
        f"linear layers take {NF4_BITS} bits",
        f"allowance** of {ALLOWANCE // GIB} GiB",
        f"{RESERVED // GIB} GiB is left to the driver",
        f"{CARDS['24 GB'] // GIB} GiB to use here",
        f"{CARDS['80 GB'] // GIB} GiB",
        f"{LORA_BYTES} bytes a LoRA parameter",
        f"rank {RANK}",
        f"KV cache of {SAMPLED_REPLIES} replies",
        f"that is {STEP_GROUPS * GROUP_REPLIES * STEP_LENGTH:,} tokens",
        f"{LOGIT_BYTES} bytes · vocabulary",
        f"`engine.max_loras = {SLOTS}`",
        f"{SLOTS} LoRA slots of rank {RANK} and `engine.max_model_len = {LEAST_TOKENS}`",
        f"`engine.max_lora_rank` is {EngineSettings().max_lora_rank} where nothing is said",
    ):
        assert words in " ".join(PAGE.split()), words
    assert EngineSettings().max_loras == SLOTS
    environment = env_file(ROOT / "deploy" / "hone.env")
    assert environment["HONE_ENGINE__GPU_MEMORY_SHARE"] == "0.9" and "engine.gpu_memory_share = 0.9" in PAGE
    assert environment["HONE_ENGINE__MAX_LORA_RANK"] == environment["HONE_LEARNER__RANK"] == str(RANK)
    for section, key in re.findall(r"`(engine|learner)\.(\w+)", PAGE):
        assert section == "learner" or key in EngineSettings.model_fields


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith("Qwen3")])
def test_parameters_are_counted_right(name: str) -> None:
    shape = SHAPES[name]
    assert shape_of(config_of(shape).to_dict()) == replace(shape, context=config_of(shape).max_position_embeddings)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config_of(shape))
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == pytest.approx(shape.parameters, rel=1e-3)  # the norms are left out


def test_a_lora_is_counted_right_and_so_is_what_a_step_keeps() -> None:
    for shape in (
        ModelShape(3, 256, 768, 2, 1, 128, 256, tied=True),
        ModelShape(3, 512, 1536, 8, 2, 128, 256, tied=True),
    ):
        model = adapted(shape)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained == RANK * shape.widths
        shallow = replace(shape, layers=1)
        tokens = 128
        kept = (kept_bytes(model, tokens) - kept_bytes(adapted(shallow), tokens)) / tokens
        assert kept == pytest.approx(2 * Learner(shape, RANK).kept_per_layer, rel=0.03)


def config_of(shape: ModelShape) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        tie_word_embeddings=shape.tied,
    )


def adapted(shape: ModelShape) -> Any:
    """A model in bfloat16 with a LoRA on all linear layers, as the learner trains it on a GPU."""
    base = Qwen3ForCausalLM(config_of(shape)).to(torch.bfloat16)
    base.requires_grad_(False)
    config = LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(base, config).eval()


def kept_bytes(model: Any, tokens: int) -> int:
    """What the backward pass of so many tokens needs, without the parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in parameters:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.ones(1, tokens, dtype=torch.long))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
