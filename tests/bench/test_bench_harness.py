"""What is asked of a benchmark is told with what it measured, and what is missed is marked, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.bench.__main__ import load_benchmarks
from tests.bench.harness import RATIO, REGISTRY, Benchmark, Comparison, alternate
from tests.bench.page import MISSED, Record, page, renewed, verdict

LATE = "ms added to the 99th percentile"


def of(
    ours: float,
    peer: float,
    *,
    higher_is_better: bool = True,
    target: float | None = None,
    figures: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The result of a benchmark that measured this."""
    comparison = Comparison([ours], [peer], "as noted", figures or {})
    one = Benchmark("speed", "pages/s", "a snail", lambda: comparison, higher_is_better, target, limits or {})
    return one.run()


def kept(*results: dict[str, Any], day: str = "2026-11-26", machine: str = "a small one") -> list[Record]:
    return [one | {"day": day, "machine": machine} for one in results]


def test_medians_are_compared_and_above_one_is_better_whichever_way_the_unit_goes() -> None:
    assert of(30, 10)["ratio"] == 3.0
    assert of(30, 10, higher_is_better=False)["ratio"] == 0.333
    turns = iter([1.0, 10.0, 9.0, 30.0, 2.0, 20.0])
    found = alternate(lambda: next(turns), lambda: next(turns), repeats=3)
    assert (found.ours, found.peer) == ([1.0, 9.0, 2.0], [10.0, 30.0, 20.0])
    one = Benchmark("speed", "pages/s", "a snail", lambda: found)
    assert (one.run()["ours"], one.run()["peer"], one.run()["ratio"]) == (2.0, 20.0, 0.1)


def test_a_ratio_is_asked_to_be_at_least_and_a_figure_at_most_so_much() -> None:
    assert of(98, 100, target=0.98)["asked"] == [{"figure": "ratio", "measured": 0.98, "asked": 0.98, "is_met": True}]
    assert of(97, 100, target=0.98)["asked"][0]["is_met"] is False
    within, above = (of(1, 1, figures={LATE: late}, limits={LATE: 15.0})["asked"] for late in (15.0, 15.1))
    assert within == [{"figure": LATE, "measured": 15.0, "asked": 15.0, "is_met": True}]
    assert above == [{"figure": LATE, "measured": 15.1, "asked": 15.0, "is_met": False}]
    assert of(1, 1)["asked"] == []


def test_what_is_missed_by_less_than_is_shown_is_missed_all_the_same() -> None:
    [asked] = of(0.97999, 1, target=0.98)["asked"]
    assert (asked["measured"], asked["is_met"]) == (0.98, False)


def test_a_limit_for_what_was_not_measured_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="99th"):
        of(1, 1, limits={LATE: 15.0})


def test_the_page_says_in_words_what_is_missed_and_marks_it() -> None:
    missed = of(90, 100, target=0.98, figures={LATE: 20.0}, limits={LATE: 15.0})
    text = page(kept(missed), {})
    assert f"Of 2 figures that are asked 2 are {MISSED}:" in text and "- A: a small one\n" in text
    assert "- `speed`, ratio: 0.9, asked at least 0.98\n" in text
    assert f"- `speed`, {LATE}: 20.0, asked at most 15\n" in text
    assert f"| `speed` | pages/s | 90 | 100 | a snail | 0.9 | 0.98 {MISSED} | 2026-11-26, A |\n" in text
    assert f"| `speed` | {LATE} | 20.0 | 15 {MISSED} |\n" in text
    assert "- `speed`: as noted\n" in text


def test_the_page_says_so_when_nothing_is_missed_and_what_could_not_be_measured() -> None:
    met, not_asked = of(100, 100, target=0.98, figures={LATE: 5.0}, limits={LATE: 15.0}), of(1, 2)
    assert verdict([met, not_asked]) == "All 2 figures that are asked are reached.\n"
    text = page(kept(met, not_asked), {"swap": "vLLM is not installed", "speed": "it was too slow"})
    assert MISSED not in text and "| 0.98 | 2026-11-26, A |\n" in text and "| 0.5 |  | 2026-11-26, A |\n" in text
    assert "too slow" not in text, "what was measured before stays"
    assert "- `swap` could not be measured: vLLM is not installed.\n" in text


def test_the_page_says_what_was_never_measured() -> None:
    on_gpu = of(3, 1) | {"name": "gpu-speed"}
    names = ["speed", "swap", "slow", "quick", "gpu-speed", "gpu-quick"]
    text = page(kept(of(1, 2), on_gpu), {"swap": "vLLM is not installed"}, dict.fromkeys(names, ()))
    assert "- Not measured yet: `slow`, `quick`.\n" in text and "- Not measured yet: `gpu-quick`.\n" in text
    assert text.index("`slow`") < text.index("## On a GPU") < text.index("`gpu-quick`")


def test_the_page_says_which_figures_are_asked_since_it_was_measured() -> None:
    text = page(kept(of(100, 100, target=0.98)), {}, {"speed": [RATIO, LATE]})
    assert f"\nAsked, and not measured yet:\n\n- `speed`, {LATE}\n\n|" in text
    assert "not measured yet" not in page(kept(of(100, 100, target=0.98)), {}, {"speed": [RATIO]})


def test_every_table_of_the_page_has_cells_for_its_columns() -> None:
    on_gpu = of(3, 1) | {"name": "gpu-speed"}
    text = page(kept(of(90, 100, target=0.98, figures={LATE: 20.0}, limits={LATE: 15.0}), on_gpu), {})
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert [len(table) for table in tables] == [3, 3, 3]
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_what_the_issue_asks_of_the_gateway_is_asked() -> None:
    load_benchmarks()
    latency = REGISTRY["gateway-latency"]
    assert latency.target == 3.0 and sorted(set(latency.limits.values())) == [1.5, 15.0] and len(latency.limits) == 6
    for name in ("stream-tax", "stream-tax-paced"):
        assert REGISTRY[name].target == 0.98 and len(REGISTRY[name].limits) == 1
    assert set(REGISTRY["replica-kill"].limits.values()) == {0}


def test_one_benchmark_is_measured_anew_and_the_others_stay() -> None:
    quick, slow = of(30, 10) | {"name": "quick"}, of(1, 10) | {"name": "slow"}
    on_gpu, gone = of(3, 1) | {"name": "gpu-speed"}, of(1, 1) | {"name": "gone"}
    before = [*kept(gone, quick, slow, day="2026-11-01"), *kept(on_gpu, day="2026-11-02", machine="a fast card")]
    (new,) = kept(of(2, 10) | {"name": "slow"})
    after = renewed(before, new, ["slow", "quick", "gpu-speed"])
    assert [(one["name"], one["ours"], one["day"]) for one in after] == [
        ("slow", 2, "2026-11-26"),
        ("quick", 30, "2026-11-01"),
        ("gpu-speed", 3, "2026-11-02"),
    ]
    text = page(after, {"gpu-speed": "there is no GPU here"})
    assert "- A: a small one\n" in text and "there is no GPU here" not in text
    assert "| 0.2 |  | 2026-11-26, A |" in text and "| 3.0 |  | 2026-11-01, A |" in text
    assert "| `gpu-speed` | pages/s | 3 | 1 | a snail | 3.0 | 2026-11-02, a fast card |" in text


def test_what_another_machine_measured_stays_beside_it_and_the_page_says_which_is_which() -> None:
    before = kept(of(100, 100, target=0.98, figures={LATE: 5.0}, limits={LATE: 15.0}))
    (new,) = kept(of(90, 100, target=0.98, figures={LATE: 20.0}, limits={LATE: 15.0}), machine="a large one")
    text = page(renewed(before, new, ["speed"]), {})
    assert "- A: a large one\n- B: a small one\n" in text and "Of 4 figures that are asked 2 are" in text
    assert "- `speed` on A, ratio: 0.9, asked at least 0.98\n" in text
    assert f"| 0.98 {MISSED} | 2026-11-26, A |\n" in text and "| 0.98 | 2026-11-26, B |\n" in text
    assert f"| `speed` on A | {LATE} | 20.0 | 15 {MISSED} |\n" in text and "- `speed` on B: as noted\n" in text
