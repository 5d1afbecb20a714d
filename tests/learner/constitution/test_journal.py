"""What a run's model and judge said is there after a kill, and is not asked for again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from learner.backbone import Backbone
from learner.constitution import asking, revising, writing
from learner.constitution.asking import Request, Said, ask
from learner.constitution.journal import Journal
from learner.constitution.judging import HeardOdds
from learner.constitution.writing import write_or_go_on
from learner.sampling import sample
from service.settings import Settings
from tests.learner.constitution.toy import Model, Scale
from tests.learner.constitution.written import judged_by, lessons, quiet, sensible

OF = {"seed": 1}
QUESTIONS: list[Request] = [[{"role": "user", "content": f"Is {one} red?"}] for one in ("it", "that", "this", "it")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a run's journal."""
    (run := tmp_path / "run-1").mkdir()
    return run / "kept"


class Killed(BaseException):
    pass


def until(left: int, answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Answers so many times, and then the process is killed."""

    def answered(about: Any) -> Any:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        return answer(about)

    return answered


def of_length(reply: str) -> float:
    return len(reply) / 1_000


def told(requests: Sequence[Request]) -> list[str]:
    return sorted(request[-1]["content"] for request in requests)


@pytest.mark.parametrize(("method", "answers"), [("sl-cai", 5), ("sl-cai", 25), ("rl-cai", 10), ("rl-cai", 14)])
def test_a_stage_that_is_killed_asks_only_for_what_is_missing_and_comes_to_the_same(
    method: str, answers: int, sprout: Backbone, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sampled = settings.home / "constitution.jsonl", list[int]()

    def counted(backbone: Backbone, prompts: Any, **how: Any) -> Any:
        sampled.append(len(prompts))
        return sample(backbone, prompts, **how)

    def run(model: Model, judge: Scale) -> None:
        judged_by(judge, monkeypatch)
        monkeypatch.setattr(revising, "ask", model)
        write_or_go_on(sprout, settings, method, lessons(sprout), path, quiet)

    monkeypatch.setattr(writing, "sample", counted)
    run(model := Model(sensible), judge := Scale(of_length))
    whole, asked = path.read_bytes(), (told(model.asked), told(judge.asked))
    path.unlink()
    of_model = list[Request]()

    def first(request: Request) -> str:
        of_model.append(request)
        return sensible(request)

    dying = Scale(until(2 * answers, of_length))
    with pytest.raises(Killed):
        run(Model(until(answers, first) if method == "sl-cai" else first), dying)
    unfinished, before = path.with_suffix(".unfinished"), len(sampled)
    assert not path.exists() and unfinished.exists()
    run(model := Model(sensible), judge := Scale(of_length))
    assert path.read_bytes() == whole and not unfinished.exists()
    of_judge = [*dying.asked[:-1], *judge.asked] if method == "rl-cai" else judge.asked  # the last wasn't answered
    assert (told([*of_model, *model.asked]), told(of_judge)) == asked
    assert len(sampled) == before + 1  # replies to harmless prompts; the others are kept


def answered(path: Path, answers: list[float | None], of: dict[str, int] = OF) -> tuple[list[float | None], int]:
    """What a journal has of four questions, and how many are still asked."""
    asked = list[Request]()

    def judge(missing: Sequence[Request], heard: HeardOdds) -> list[float | None]:
        asked.extend(missing)
        some = answers[: len(missing)]
        for place, one in enumerate(some):
            if one is not None:
                heard(place, one, f"I thought {one}.")
        if len(some) < len(missing):
            raise Killed
        return some

    thoughts = dict[int, str]()
    try:
        found = Journal(path, of).odds(
            "a judge", QUESTIONS, judge, lambda place, odds, thought: thoughts.__setitem__(place, thought)
        )
    except Killed:
        return [], len(asked)
    assert thoughts == {place: f"I thought {odds}." for place, odds in enumerate(found) if odds is not None}
    return found, len(asked)


def test_a_torn_last_line_counts_as_never_said_and_what_came_to_nothing_is_asked_again(path: Path) -> None:
    assert answered(path, [0.1, None, 0.3]) == ([], 4)
    path.write_bytes(path.read_bytes()[:-5])  # of the third answer
    assert answered(path, [0.2, 0.35]) == ([], 3)
    assert answered(path, [0.4]) == ([0.1, 0.2, 0.35, 0.4], 1)
    assert answered(path, []) == ([0.1, 0.2, 0.35, 0.4], 0)


def test_a_broken_line_in_between_costs_its_answer_alone(path: Path) -> None:
    assert answered(path, [0.1, 0.2, 0.3, 0.4])[1] == 4
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:9] + b"\n", *lines[3:]]))
    assert answered(path, [0.25]) == ([0.1, 0.25, 0.3, 0.4], 1)


def test_what_other_settings_decided_is_forgotten(path: Path) -> None:
    assert answered(path, [0.1, 0.2, 0.3, 0.4])[1] == 4
    assert answered(path, [0.5, 0.6, 0.7, 0.8], {"seed": 2}) == ([0.5, 0.6, 0.7, 0.8], 4)


def test_what_a_failed_run_was_told_is_the_next_ones_where_the_same_decides(tmp_path: Path) -> None:
    failed, other, following = (tmp_path / run / "kept" for run in ("run-1", "run-2", "run-3"))
    for path in (failed, other, following):
        path.parent.mkdir()
    assert answered(failed, [0.1, 0.2]) == ([], 4)
    assert answered(other, [0.5], {"seed": 2}) == ([], 4)
    assert answered(following, [0.3, 0.4]) == ([0.1, 0.2, 0.3, 0.4], 2)
    assert other.exists() and not failed.exists()


def test_a_journal_that_can_not_be_written_costs_the_run_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "kept", OF)
    (tmp_path / "kept").unlink()
    (tmp_path / "kept").mkdir()
    assert [journal.once(name, lambda: 0.5, float) for name in ("one", "two")] == [0.5, 0.5]
    assert caplog.text.count("kept can't be written (Is a directory)") == 1


def test_the_models_answers_are_kept_batch_by_batch(
    tmp_path: Path, sprout: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "sample", partial(sample, batch_size=2))
    whole = ask(sprout, QUESTIONS, max_new_tokens=12)

    def dies(missing: Sequence[Request], heard: Any) -> list[Said | None]:
        def once(place: int, said: Said) -> None:
            heard(place, said)
            if len(kept := (tmp_path / "kept").read_bytes().splitlines()) == 3:  # a head and two answers
                raise Killed(kept)

        return ask(sprout, missing, max_new_tokens=12, heard=once)

    with pytest.raises(Killed):
        Journal(tmp_path / "kept", OF).said("base", QUESTIONS, dies)
    asked = list[Request]()

    def lives(missing: Sequence[Request], heard: Any) -> list[Said | None]:
        asked.extend(missing)
        return ask(sprout, missing, max_new_tokens=12, heard=heard)

    assert Journal(tmp_path / "kept", OF).said("base", QUESTIONS, lives) == whole and len(asked) == 2
