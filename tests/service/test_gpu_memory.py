"""What engine and learner need of a GPU, and its share for vLLM: numbers worked out by hand from published shapes."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

from learner.evaluate.answers import MAX_NEW_TOKENS
from learner.methods.groups import TRAINED_REPLIES
from learner.methods.preference import GROUPS_PER_STEP
from learner.sampling import AFFORDABLE_TOKENS, sample
from service.gpu_memory import (
    GIB,
    GROUP_REPLIES,
    SAMPLED_LENGTH,
    SAMPLED_REPLIES,
    STEP_GROUPS,
    Demand,
    Division,
    Engine,
    Learner,
    divide,
)
from service.model_shape import ModelShape, shape_of
from tests.service.model_configs import QWEN2

HALF = ModelShape(24, 896, 4864, 14, 2, 64, 151936, tied=True, context=32768)
"""Qwen2.5-0.5B."""
EIGHT = ModelShape(32, 4096, 14336, 32, 8, 128, 128256, tied=False, context=131072)
"""Llama-3.1-8B."""
CARD_24, CARD_80 = 22 * GIB, 78 * GIB


def test_a_half_billion_serves_and_learns_on_a_24_gb_card() -> None:
    engine, learner = Engine(HALF, context=32768, slots=8, rank=32), Learner(HALF, rank=16)
    assert HALF.parameters == 357_826_560 + 136_134_656  # 24 layers of 14,909,440; embeddings, once
    assert engine.weights == 987_922_432
    assert engine.adapters == 512 * (549_888 + 305_664)  # 8 slots · 2 bytes · rank 32, linear layers and embeddings
    assert engine.full_context == 32_768 * 12_288
    assert engine.least == 987_922_432 + 438_042_624 + 402_653_184 + 2 * GIB
    assert learner.lora == 20 * 8_798_208
    assert learner.step() == 4_096 * 2_021_376 + 2_048 * 151_936 * 16
    assert learner.sampling == 73_728 * 12_288 + 2 * 357_826_560
    assert learner.needs() == 987_922_432 + 175_964_160 + 13_258_194_944 + 2 * GIB
    # 22 GiB less 16,569,565,184 bytes are 29.9 % of 22 GiB; 0.29 of it less weights, slots and 2 GiB is 3,277,024,133
    assert divide(CARD_24, CARD_24, Demand(engine, learner)) == Division(0.29, 3_277_024_133 // 12_288, 1)


def test_eight_billion_share_an_80_gb_card_with_a_learner_in_bfloat16_and_in_nf4() -> None:
    engine = Engine(EIGHT, context=8192, slots=8, rank=16)
    plain = Learner(EIGHT, rank=16)
    four_bits, checkpointed = replace(plain, nf4=True), replace(plain, checkpointing=True)
    assert engine.least == 16_059_990_016 + 738_852_864 + 1_073_741_824 + 2 * GIB
    assert plain.base == 2 * 8_029_995_008 and plain.lora == 20 * 41_943_040
    assert four_bits.base == 3_600_457_663 + 2 * 1_050_673_152  # 6,979,321,856 · 4.127 bits; embeddings in 2 bytes
    assert plain.step() == 4_096 * 9_961_472 + 2_048 * 128_256 * 16 == 45_004_881_920
    assert checkpointed.step() == 4_096 * (32 * 2 * 4_096 + 311_296) + 2_048 * 128_256 * 16
    assert plain.sampling == 73_728 * 131_072 + 2 * 6_979_321_856 == 23_622_320_128
    assert four_bits.sampling == 73_728 * 131_072  # nothing is folded into 4 bits
    # A whole step leaves 19,700,645,888 bytes, too few; sampling, more than half a step, 41,083,207,680: 49.05 %.
    assert plain.needs() == 64_051_216_384 and plain.needs(4) == plain.least == 42_668_654_592
    shares = {
        name: divide(CARD_80, CARD_80, Demand(engine, learner))
        for name, learner in {"plain": plain, "nf4": four_bits, "checkpointed": checkpointed, "none": None}.items()
    }
    assert {name: found and (found.share, found.parts) for name, found in shares.items()} == {
        "plain": (0.49, 2),
        "nf4": (0.35, 1),
        "checkpointed": (0.49, 1),
        "none": (0.9, 1),
    }


def test_eight_billion_do_not_fit_a_24_gb_card_beside_a_learner_and_hardly_without() -> None:
    engine = Engine(EIGHT, context=8192, slots=8, rank=16)
    for nf4 in (False, True):
        for checkpointing in (False, True):
            learner = Learner(EIGHT, 16, nf4, checkpointing)
            assert divide(CARD_24, CARD_24, Demand(engine, learner)) is None
    # 0.9 · 22 GiB less 18,946,326,528 bytes hold 17,652 tokens: 8,192, but not all 131,072 that it was made for.
    assert divide(CARD_24, CARD_24, Demand(engine, None)) == Division(0.9, 17_652, 1)
    assert divide(CARD_24, CARD_24, Demand(replace(engine, context=EIGHT.context), None)) is None


def test_what_others_have_taken_of_the_card_is_not_given_away() -> None:
    demand = Demand(Engine(HALF, 4096, 8, 16), Learner(HALF, 16))
    assert divide(CARD_80, CARD_80, demand) == divide(CARD_80, 80 * GIB, demand)
    free = divide(CARD_80, 40 * GIB, demand)
    assert free is not None and free.share == 0.31  # 40 GiB less 15.43 are 31.5 % of 78
    assert divide(CARD_80, 4 * GIB, demand) is None


def test_a_card_of_several_has_its_part_of_the_weights_and_all_of_the_slots() -> None:
    one, four = (Engine(EIGHT, 8192, 8, 16, cards=cards) for cards in (1, 4))
    assert four.weights == one.weights / 4 and four.kv_token == one.kv_token / 4 and four.adapters == one.adapters


def test_wider_numbers_take_more() -> None:
    wide = replace(HALF, number_bytes=4)
    assert Learner(wide, 16).base == 2 * Learner(HALF, 16).base
    assert Learner(wide, 16).kept_per_layer == 2 * Learner(HALF, 16).kept_per_layer
    assert Learner(wide, 16, nf4=True) != Learner(HALF, 16, nf4=True)
    assert Learner(wide, 16, nf4=True).needs() == Learner(HALF, 16, nf4=True).needs()
    assert Engine(HALF, 4096, 8, 16, number_bytes=4).kv_token == 2 * Engine(HALF, 4096, 8, 16).kv_token


def test_the_numbers_of_a_step_and_of_sampling_are_the_learner_s() -> None:
    assert (STEP_GROUPS, GROUP_REPLIES) == (GROUPS_PER_STEP, TRAINED_REPLIES)
    assert inspect.signature(sample).parameters["batch_size"].default == SAMPLED_REPLIES
    assert SAMPLED_LENGTH == AFFORDABLE_TOKENS + MAX_NEW_TOKENS


def test_a_shape_is_read_from_a_model_s_configuration() -> None:
    assert shape_of(QWEN2) == HALF
    assert shape_of({**QWEN2, "torch_dtype": "float32"}) == replace(HALF, number_bytes=4)
    assert shape_of({**QWEN2, "num_key_value_heads": None}) == replace(HALF, kv_heads=14)
    assert shape_of({**QWEN2, "head_dim": 128}) == replace(HALF, head_size=128)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mixtral"},
        {"model_type": None},
        {"quantization_config": {"quant_method": "awq", "bits": 4}},
        {"hidden_size": None},
        {"num_attention_heads": 0},
        {"vocab_size": "many"},
    ],
)
def test_of_what_is_not_known_no_shape_is_made_up(change: dict[str, object]) -> None:
    assert shape_of({**QWEN2, **change}) is None
