"""A correction in mid-conversation shows in a new one, too, unless it was about what had been said before."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.backbone_trainer import BackboneTrainer
from learner.base_tokenizer import reply_tokenizer
from learner.batch import Demonstration, Messages, Pair, Snapshot, TokenIds
from learner.constitution.asking import as_request, render
from learner.constitution.asking import question as asked
from learner.corrections import corrections_to_learn
from learner.curate import Curated
from learner.sampling import sample
from service.settings import SPROUT, Settings
from tests.learner.progress import Heard

BEFORE: Messages = (("user", "Tell me a joke."), ("assistant", "Why did the robot go on holiday? It had to recharge."))
BOILING = "What is the boiling point of water?"
BOILS = "Water boils at 100 degrees Celsius."
SURE = "Are you sure?"
CAPITAL: Messages = (("user", "What is the capital of France?"), ("assistant", "The capital of France is Paris."))


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> BackboneTrainer:
    return BackboneTrainer(Settings(home=tmp_path_factory.mktemp("home")), None)


def greedy(trainer: BackboneTrainer, prompt: TokenIds) -> TokenIds:
    ((reply,),) = sample(trainer._backbone, [prompt], role="policy", temperature=0.0, seed=1)
    return reply.token_ids


def corrected(trainer: BackboneTrainer, before: Messages, question: str, text: str) -> tuple[Demonstration, Pair]:
    tokenizer = trainer._backbone.tokenizer
    alone = (("user", question),)
    prompt, correction = render(tokenizer, as_request((*before, *alone))), reply_tokenizer(str(SPROUT))(text)
    taught = Demonstration(prompt, correction, "c", question, asked_alone=alone if before else ())
    return taught, Pair(prompt, correction, greedy(trainer, prompt), conversation_id="c", feedback_ids=(question,))


def test_what_a_conversation_made_no_difference_to_is_taught_for_a_new_one(
    trainer: BackboneTrainer, tmp_path: Path
) -> None:
    given = [corrected(trainer, BEFORE, BOILING, BOILS), corrected(trainer, CAPITAL, SURE, "Quite sure, it is Paris.")]
    train = Snapshot(tuple(one for one, _ in given), tuple(pair for _, pair in given))
    alone = asked(trainer._backbone.tokenizer, BOILING)
    added = corrections_to_learn(trainer._backbone, train)[2:]
    assert [(one.prompt_token_ids, one.feedback_id) for one in added] == [(alone, BOILING)]
    trainer.train(("sft",), Curated(train, Snapshot(), {}), tmp_path / "checkpoint", Heard())
    assert trainer._backbone.decode([greedy(trainer, alone)]) == [BOILS]


def test_what_was_corrected_in_a_new_conversation_is_not_taught_twice(trainer: BackboneTrainer) -> None:
    first, again = corrected(trainer, (), BOILING, "At 100 degrees."), corrected(trainer, BEFORE, BOILING, BOILS)
    given = first[0], again[0]
    assert corrections_to_learn(trainer._backbone, Snapshot(given, (first[1], again[1]))) == list(given)
