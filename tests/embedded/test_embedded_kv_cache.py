"""The cache's rows hold what was written to them, wherever they lie and however often they are laid out anew."""

import random

import pytest
import torch

from service.embedded.kv_cache import KvCache, Plane

ROWS = 6
CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("scattered", [False, True], ids=["in order", "scattered"])
def test_rows_keep_what_was_written(scattered: bool, seed: int) -> None:
    draws = random.Random(seed)
    cache = KvCache([Plane(2, 4), Plane(1, 8)], ROWS * 128, ROWS, 512, torch.float32, CPU, scattered)
    expected: list[list[float]] = [[] for _ in range(ROWS)]

    def written(row: int) -> list[list[float]]:
        return [view[cache.place_of(row), -1, : len(expected[row]), 0].tolist() for view in cache.views]

    for _ in range(300):
        running = cache.rows
        source, target = draws.randrange(running), draws.randrange(running)
        match draws.choice(["write", "copy", "move", "clear", "lay out"]):
            case "write":
                place = len(expected[source])
                if place < cache.capacity:
                    expected[source].append(draws.random())
                    for view in cache.views:
                        view[cache.place_of(source), :, place] = expected[source][-1]
            case "copy":
                cache.copy_row(source, target, len(expected[source]))
                expected[target] = list(expected[source])
            case "move" if source != target:
                cache.move_row(source, target, len(expected[source]))
                expected[target], expected[source] = expected[source], []
            case "clear":
                cache.clear_row(source)
                expected[source] = [0.0] * len(expected[source])
            case "lay out":
                rows, length = draws.randrange(1, ROWS + 1), draws.randrange(1, 300)
                used = expected[: min(rows, running)]
                if cache.reserve([len(content) for content in used], rows, max([length, *map(len, used)])):
                    expected = used + [[] for _ in range(ROWS - len(used))]
        for row in range(cache.rows):
            assert written(row) == [pytest.approx(expected[row])] * 2


def test_a_scattered_row_moves_without_its_numbers() -> None:
    cache = KvCache([Plane(1, 4)], 3 * 64, 3, 64, torch.float32, CPU, scattered=True)
    cache.views[0][1] = 1.0
    before = cache.views[0].clone()
    cache.move_row(1, 2, 64)
    assert torch.equal(cache.views[0], before) and cache.place_of(2) == 1
