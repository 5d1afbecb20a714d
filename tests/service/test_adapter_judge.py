"""The judge that goes with an adapter: what it says of replies, and what becomes of its file."""

from __future__ import annotations

import json
from math import log1p
from pathlib import Path

import pytest

from service.adapters.judge import MOST_BYTES, read_judge
from service.adapters.manifest import CONFIG, JUDGE, MANIFEST, REPORT, WEIGHTS
from service.adapters.place import Place
from service.adapters.registry import Registry
from service.adapters.text_features import ends, length, marks, word_pairs, words
from service.errors import AdapterBroken
from service.store.session import Store
from tests.fixtures.adapters import provenance
from tests.service.judges import SHORT, judge


def test_the_features_are_what_a_person_can_see() -> None:
    text = "Don't go!! I'm 7."
    assert length(text, 9) == {
        "tokens": 9, "words": 4, "characters": 17, "log tokens": log1p(9), "log words": log1p(4),
        "log characters": log1p(17),
    }  # fmt: skip
    counted = {"A": 2.0, "'": 2.0, "!": 2.0, "0": 1.0, ".": 1.0}
    assert marks(text, 9) == counted | {f"any {mark}": 1.0 for mark in counted}
    assert words(text, 9).keys() == {"don't", "go", "!", "i'm", "7", "."}
    assert word_pairs(text, 9).keys() == {"don't go", "go !", "! !", "! i'm", "i'm 7", "7 ."}
    assert ends(text, 9).keys() == {"first don't", "second go", "last .", "before 7"}
    assert ends("Yes", 1).keys() == {"first yes", "last yes"}
    assert not ends("", 0) and not words(" \n", 1) and not word_pairs("one", 1)


def test_a_score_is_the_sum_of_its_features_weights() -> None:
    of_marks = judge(
        {"marks": {"!": -1.0, "any !": 0.25}, "words": {"go": 2.0, "stay": 5.0}, "length": {"tokens": 0.5}}
    )
    assert of_marks.score("Go!!", 3) == pytest.approx(-2.0 + 0.25 + 2.0 + 1.5)
    assert judge({}).score("anything", 3) == 0


def test_the_best_comes_first_ties_keep_their_order_and_saying_nothing_is_worst() -> None:
    replies = [("a long one", 3, True), ("ab", 1, True), ("", 1, True), ("cd", 1, True), (" \n", 2, True)]
    assert judge(SHORT).order(replies) == [1, 3, 0, 2, 4]
    assert judge({}).order(replies) == [0, 1, 3, 2, 4]


def test_a_reply_that_was_cut_off_comes_after_whole_ones_and_before_blank_ones() -> None:
    assert judge(SHORT).order([("", 1, True), ("ab", 1, False), ("a long one", 3, True)]) == [2, 1, 0]


def test_a_judge_comes_back_from_its_file(tmp_path: Path) -> None:
    written = judge({"marks": {"\n": 0.125, "any ☃": -1e-9}, "word pairs": {"oh no": 3.0}})
    (tmp_path / JUDGE).write_bytes(written.encoded())
    assert read_judge(tmp_path / JUDGE) == written


GOOD = {"format_version": 1, "comparisons": 10, "accuracy": 0.8, "weights": SHORT}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no judge"),
        (b"\xff{", "is no judge"),
        (b"[" * 100_000, "is no judge"),
        (b"[]", "is no judge"),
        (json.dumps(GOOD | {"format_version": 2}), "format_version"),
        (json.dumps(GOOD | {"code": "import os"}), "code: Extra inputs"),
        (json.dumps(GOOD | {"weights": {"smell": {"sweet": 1.0}}}), "weights.smell"),
        (json.dumps(GOOD | {"weights": {"words": {"a": float("nan")}}}), "is no judge"),
        (json.dumps(GOOD | {"weights": {"words": {"a": 1e300}}}), "weights.words.a"),
        (json.dumps(GOOD | {"weights": {"words": {"a": "1.0"}}}), "weights.words.a: Input should be a valid number"),
        (json.dumps(GOOD | {"weights": {"words": {"a" * 101: 1.0}}}), "weights.words"),
        (json.dumps(GOOD | {"weights": {"words": {str(n): 1.0 for n in range(2049)}}}), "at most 2048"),
        (b" " * (MOST_BYTES + 1), "is larger than"),
    ],
)
def test_what_is_no_judge_is_refused_by_what_is_wrong_with_it(tmp_path: Path, content: str | bytes, words: str) -> None:
    (tmp_path / JUDGE).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AdapterBroken) as refused:
        read_judge(tmp_path / JUDGE)
    assert f"{JUDGE} " in str(refused.value) and words in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_a_judge_goes_wherever_its_adapter_goes(
    registry: Registry, sqlite_store: Store, source: Path, tmp_path: Path
) -> None:
    without = registry.publish(source, provenance(), {}, "")
    (source / JUDGE).write_bytes(judge(SHORT).encoded())
    name = registry.publish(source, provenance(), {}, "")
    assert registry.judge(without) is None and registry.judge(name) == judge(SHORT)
    path, manifest = registry.check(name)
    assert {file.name for file in path.iterdir()} == {CONFIG, WEIGHTS, REPORT, MANIFEST, JUDGE}
    assert set(manifest.files) == {CONFIG, WEIGHTS, REPORT, JUDGE}
    registry.export(name, tmp_path / "with.tar")
    registry.export(name, Place("memory://bucket/judged"))
    registry.export(without, tmp_path / "without.tar")
    for exported in (tmp_path / "with.tar", Place("memory://bucket/judged")):
        assert registry.judge(registry.import_adapter(exported, "")) == judge(SHORT)
    assert registry.judge(registry.import_adapter(tmp_path / "without.tar", "")) is None


def test_a_judge_is_vouched_for_as_the_weights_are(registry: Registry, source: Path) -> None:
    (source / JUDGE).write_bytes(judge(SHORT).encoded())
    name = registry.publish(source, provenance(), {}, "")
    file = registry.folder / name / JUDGE
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b"0.5", b"9.5"))
    with pytest.raises(AdapterBroken, match="was changed after it was published"):
        registry.judge(name)
