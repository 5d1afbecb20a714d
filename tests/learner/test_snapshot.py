from __future__ import annotations

import json
from pathlib import Path

import pytest

from learner.curate import curate
from learner.snapshot import FrozenFeedback, collect, read_snapshot, write_snapshot
from service.errors import TrainingFailed
from service.settings import LearnerSettings
from service.store.queries import feedback
from service.wire import Comparison, Correction, Critique, Label, Ranking, ReplyRef, Score, Thumb
from tests.learner.store_fixtures import EOS, PROMPT, Home, tokenize
from tests.learner.store_fixtures import home as home


def freeze(home: Home, position: int | None = None) -> FrozenFeedback:
    with home.store.read() as tx:
        return collect(tx, feedback.last_position(tx) if position is None else position, tokenize)


def test_the_same_store_gives_the_same_bytes(home: Home, tmp_path: Path) -> None:
    home.correct("it is Lyon", "it is Paris")
    home.compare("yes", "certainly so", "b")
    first, second = (write_snapshot(freeze(home), tmp_path / name) for name in ("one.jsonl", "two.jsonl"))
    assert first == second
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    home.correct("two", "four")
    assert write_snapshot(freeze(home), tmp_path / "three.jsonl") != first


def test_every_kind_survives_the_way_through_the_file(home: Home, tmp_path: Path) -> None:
    exchange = home.chat("one", "two words", "three words here")
    refs = [ReplyRef(exchange_id=exchange, index=index) for index in range(3)]
    for judged in (
        Thumb(exchange_id=exchange, good=True),
        Score(exchange_id=exchange, score=7),
        Label(exchange_id=exchange, labels=("wrong",)),
        Critique(exchange_id=exchange, text="too short"),
        Correction(exchange_id=exchange, text="much better"),
        Comparison(a=refs[0], b=refs[1], verdict="tie"),
        Ranking(order=((refs[0],), (refs[1],)), failed=(refs[2],)),
    ):
        home.judge(judged)
    frozen = freeze(home)
    digest = write_snapshot(frozen, tmp_path / "snapshot.jsonl")
    read = read_snapshot(tmp_path / "snapshot.jsonl", digest)
    assert read.judgements == frozen.judgements
    assert read.prompts == frozen.prompts
    assert (read.position, read.hash) == (frozen.position, digest)
    assert len(read.judgements) == 7


def test_exchanges_are_told_apart_by_the_weights_that_answered_where_those_are_known(home: Home) -> None:
    home.correct("one", "x", base="./qwen", base_sha256="a" * 64, prompt=(1, 6))
    home.correct("two", "y", base="sprout", base_sha256="b" * 64, prompt=(1, 7))
    home.correct("three", "z", base="sprout", prompt=(1, 8))
    home.correct("four", "w", base="acorn", prompt=(1, 9))
    with home.store.read() as tx:
        frozen = collect(tx, feedback.last_position(tx), tokenize, "sprout", "a" * 64)
    bases = [judgement.replies[0].base for judgement in frozen.judgements]
    assert bases == ["sprout", f"sprout ({'b' * 12})", "sprout", "acorn"]
    assert {asked.prompt_token_ids for asked in frozen.prompts} == {(1, 6), (1, 8)}


def test_token_ids_are_those_that_the_engine_sampled_and_a_correction_ends_with_eos(home: Home) -> None:
    home.correct("it is Lyon", "Paris")
    (judgement,) = freeze(home).judgements
    assert judgement.prompt_token_ids == PROMPT
    assert judgement.replies[0].token_ids == tokenize("it is Lyon")
    assert judgement.correction_token_ids == (15, EOS)


def test_a_correction_in_mid_conversation_says_what_its_question_is_alone(home: Home, tmp_path: Path) -> None:
    said = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello."), ("user", "And in Spain?")]
    messages = [{"role": role, "content": text} for role, text in said]
    for told in (messages, messages[:2], messages[:3], messages[1:]):
        home.correct("a", "bb", messages=told)
    frozen = freeze(home)
    alone = [judgement.asked_alone for judgement in frozen.judgements]
    assert alone == [(said[0], said[3]), (), (), (said[3],)]
    write_snapshot(frozen, tmp_path / "snapshot.jsonl")
    assert read_snapshot(tmp_path / "snapshot.jsonl").judgements == frozen.judgements
    assert [one.asked_alone for one in curate(frozen, LearnerSettings()).train.demonstrations] == [alone[-1]]


def test_withdrawn_feedback_and_later_feedback_stay_out(home: Home) -> None:
    kept = home.correct("a", "bb")
    withdrawn = home.correct("a", "ccc")
    with home.store.begin() as tx:
        position = feedback.last_position(tx)
        feedback.withdraw_feedback(tx, "name:ann", withdrawn)
    home.correct("a", "dddd")
    assert [one.feedback_id for one in freeze(home, position).judgements] == [kept]


def test_a_snapshot_that_was_changed_is_refused(home: Home, tmp_path: Path) -> None:
    home.correct("a", "bb")
    path = tmp_path / "snapshot.jsonl"
    digest = write_snapshot(freeze(home), path)
    path.write_text(path.read_text().replace('"bb"', '"bc"'))
    with pytest.raises(TrainingFailed, match="has changed since it was frozen"):
        read_snapshot(path, digest)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(TrainingFailed, match="damaged"):
        read_snapshot(path)
    with pytest.raises(TrainingFailed, match="can't be read"):
        read_snapshot(tmp_path / "nowhere.jsonl")


def test_every_line_is_canonical_json(home: Home, tmp_path: Path) -> None:
    home.correct("naïve — ✓", "größer")
    write_snapshot(freeze(home), tmp_path / "snapshot.jsonl")
    for line in (tmp_path / "snapshot.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert line == json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
