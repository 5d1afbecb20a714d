"""The judge that is served is the learner's own preference model, to the last digit that counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from learner.backbone import Backbone
from learner.batch import Pair
from learner.methods.preference_model import fit_preferences
from learner.methods.served_judge import fit_judge
from service.adapters.judge import MOST_BYTES, MOST_FEATURES, Judge, read_judge
from service.adapters.manifest import JUDGE
from service.settings import LearnerSettings
from tests.learner.likings import LIKINGS, PROMPT, comparisons, replies
from tests.learner.tiny_model import build_tiny_model, ids


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(build_tiny_model(tmp_path_factory.mktemp("tiny")), LearnerSettings(rank=4))


def share_right(judge: Judge, backbone: Backbone, pairs: list[Pair]) -> float:
    def score(reply: tuple[int, ...]) -> float:
        return judge.score(backbone.decode([reply])[0], len(reply))

    decided = [pair for pair in pairs if not pair.tie]
    return sum(score(pair.chosen) > score(pair.rejected) for pair in decided) / len(decided)


@pytest.mark.parametrize("name", LIKINGS)
def test_it_scores_as_the_learner_does(backbone: Backbone, name: str, tmp_path: Path) -> None:
    pairs = comparisons(LIKINGS[name], 100, seed=1)
    fitted = fit_judge(backbone, pairs)
    assert fitted is not None and fitted.comparisons == sum(not pair.tie for pair in pairs)
    (tmp_path / JUDGE).write_bytes(fitted.encoded())
    judge = read_judge(tmp_path / JUDGE)
    model = fit_preferences(backbone, pairs, hidden=False, most_features=MOST_FEATURES)
    examples = [(PROMPT, ids(text, end=True)) for text in [*replies(100, seed=2), ""]]
    texts = backbone.decode([reply for _, reply in examples])
    scores = [judge.score(text, len(reply)) for text, (_, reply) in zip(texts, examples, strict=True)]
    assert scores == pytest.approx(model.score(examples).tolist(), abs=1e-6, rel=1e-6)
    assert max(scores) - min(scores) > 0.5
    assert share_right(judge, backbone, comparisons(LIKINGS[name], 200, seed=3)) > 0.85


def test_where_nothing_can_be_foretold_there_is_no_judge(backbone: Backbone) -> None:
    pairs = comparisons(LIKINGS["short"], 20, seed=4)
    assert fit_judge(backbone, []) is None
    assert fit_judge(backbone, [replace(pair, tie=True) for pair in pairs]) is None
    both_ways = [pair for one in pairs for pair in (one, replace(one, chosen=one.rejected, rejected=one.chosen))]
    assert fit_judge(backbone, both_ways) is None


def test_its_file_is_small_whatever_people_write() -> None:
    rng = Random(0)
    names = ["".join(chr(rng.randint(0x20000, 0x2A000)) for _ in range(100)) for _ in range(MOST_FEATURES)]
    weights = {name: float(f"{-rng.random():.9g}") for name in names}
    groups = dict.fromkeys(("marks", "ends", "words", "word pairs"), weights)
    judge = Judge.model_validate({"comparisons": 1, "accuracy": 1.0, "weights": groups})
    assert len(judge.encoded()) < MOST_BYTES
