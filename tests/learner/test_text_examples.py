"""Examples as texts: what a file of them may begin with, and what is no text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from learner import on_texts
from learner.on_texts import learn
from learner.text_examples import read_examples
from service.errors import BadInput

HALF = "b\ud800"
GOOD = {"prompt": "Hello!", "reply": "Hi."}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": HALF, "reply": "Hi."}, "prompt"),
        ({"prompt": [{"role": "user", "content": HALF}], "reply": "Hi."}, "prompt"),
        ({"prompt": "Hello!", "reply": HALF}, "reply"),
        ({"prompt": "Hello!", "chosen": "Hi.", "rejected": HALF}, "rejected"),
        ({"prompt": "Hello!", "order": ["Hi.", ["No.", HALF]]}, "order"),
        ({"prompt": "Hello!", "order": ["Hi.", "No."], "failed": [HALF]}, "failed"),
    ],
)
def test_half_a_character_is_told_by_its_example_before_anything_is_loaded(
    row: dict[str, Any], field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_texts, "as_snapshot", None)  # which loads the tokenizer
    said = rf": {field}: \\ud800 is half a character \(a lone surrogate\); write all of it, or none\."
    with pytest.raises(BadInput, match=f"^Example 2{said}"):
        learn("sft", "sprout", [GOOD, row], tmp_path / "out")
    (tmp_path / "data").write_text(json.dumps(row) + "\n", encoding="utf-8")  # escaped, as JSON may have it
    with pytest.raises(BadInput, match=f"data, line 1{said}"):
        learn("sft", "sprout", tmp_path / "data", tmp_path / "out")


def test_a_whole_pair_of_surrogates_and_its_name_in_words_are_text(tmp_path: Path) -> None:
    (tmp_path / "data").write_text('{"prompt": "\\ud83d\\ude00", "reply": "\\\\ud800"}', encoding="utf-8")
    (example,) = read_examples(tmp_path / "data")
    assert (example.prompt, example.reply) == ("\U0001f600", "\\ud800")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "data").write_text(json.dumps(GOOD) + "\n", encoding="utf-8-sig")
    assert (tmp_path / "data").read_bytes().startswith(b"\xef\xbb\xbf")
    (example,) = read_examples(tmp_path / "data")
    assert example.reply == "Hi."
