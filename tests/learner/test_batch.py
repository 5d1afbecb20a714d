"""Examples become tensors; nothing is dropped or scored that should not be."""

from __future__ import annotations

from random import Random

import pytest

from learner.batch import Pair, by_length, collate, shuffled_batches


def test_collation_pads_on_the_right_and_masks_the_reply() -> None:
    batch = collate([((5, 6), (7, 1)), ((5,), (8, 9, 9, 1))], pad_id=2)
    assert batch.token_ids.tolist() == [[5, 6, 7, 1, 2], [5, 8, 9, 9, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch.reply_mask.tolist() == [[False, False, True, True, False], [False, True, True, True, True]]


def test_a_token_equal_to_the_padding_is_still_a_token() -> None:
    batch = collate([((5,), (2, 2)), ((5, 6, 7), (2,))], pad_id=2)
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.reply_mask.sum().item() == 3


def test_no_examples_make_an_empty_batch() -> None:
    assert collate([], pad_id=0).token_ids.shape == (0, 0)


@pytest.mark.parametrize(("count", "sizes"), [(33, [11, 11, 11]), (32, [16, 16]), (34, [11, 11, 12]), (5, [5])])
def test_batches_are_as_large_as_one_another(count: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in shuffled_batches(count, 16, Random(0))] == sizes


def test_every_index_comes_once_and_the_seed_decides_the_order() -> None:
    batches = list(shuffled_batches(10, 4, Random(3)))
    assert sorted(i for batch in batches for i in batch) == list(range(10))
    assert [len(batch) for batch in batches] == [3, 3, 4]
    assert batches == list(shuffled_batches(10, 4, Random(3)))
    assert list(shuffled_batches(0, 4, Random(3))) == []


def test_batches_by_length_hold_neighbours() -> None:
    assert list(by_length([5, 1, 4, 2], 2)) == [[1, 3], [2, 0]]


def test_a_pair_is_as_long_as_its_longer_reply() -> None:
    assert Pair((1, 2), chosen=(3,), rejected=(4, 5, 6)).length == 5
