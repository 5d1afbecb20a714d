"""What a correction must not move: the model asks itself the questions that are most like the corrected ones."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from learner.backbone import Backbone
from learner.backbone_trainer import BackboneTrainer
from learner.batch import Demonstration, Snapshot, TokenIds
from learner.evaluate.gates import spares_neighbours
from learner.evaluate.report import evaluate
from learner.methods import preference, sft
from learner.methods.retention import OTHERS, Retention, retain
from learner.methods.self_asked import NEIGHBOURS, made_up, neighbours, neighbours_apart
from learner.pretrain.dialogue import is_held_out
from learner.pretrain.questions import draw_prompts, untaught_facts
from service.settings import SPROUT, EngineSettings, LearnerSettings, Settings
from tests.learner.lessons import lessons
from tests.learner.progress import Told
from tests.learner.tiny_model import build_tiny_model, ids

SETTINGS = LearnerSettings(rank=8)


@pytest.fixture(scope="module")
def sprout() -> Backbone:
    return Backbone.load(SPROUT, SETTINGS)


def asked(backbone: Backbone, text: str) -> TokenIds:
    message = [{"role": "user", "content": text}]
    return tuple(backbone.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False))


@pytest.fixture(scope="module")
def prompts(sprout: Backbone) -> list[TokenIds]:
    return [asked(sprout, prompt.text) for prompt in draw_prompts(300, 5)]


def test_neighbours_begin_like_what_was_corrected_and_ask_something_else(
    sprout: Backbone, prompts: list[TokenIds]
) -> None:
    question = asked(sprout, "What is the capital of Romania?")
    found = neighbours(sprout, [question], prompts, Random(0), 0)
    texts = sprout.decode(found)
    assert len(found) >= 5 and len(set(found)) == len(found)
    assert sum("capital" in text for text in texts) >= 3
    assert not [text for text in texts if "Romania" in text]
    closing = question[-2:]
    assert all(one[:2] == question[:2] and one[-2:] == closing for one in found)


def test_many_corrections_share_a_bounded_number(sprout: Backbone, prompts: list[TokenIds]) -> None:
    facts = [asked(sprout, fact.text) for fact in untaught_facts(0)]
    found = neighbours(sprout, facts, prompts, Random(0), 0)
    assert 60 <= len(found) <= NEIGHBOURS
    assert found == neighbours(sprout, facts, prompts, Random(0), 0)


def test_the_model_makes_up_questions_that_nobody_corrected(sprout: Backbone, prompts: list[TokenIds]) -> None:
    corrected = asked(sprout, "What is the capital of Romania?")
    found = made_up(sprout, 60, [corrected], prompts, 0)
    texts = [sprout.decode([one])[0] for one in found]
    assert 40 <= len(found) == len(set(found)) <= 60
    assert not [text for text in texts if "Romania" in text or is_held_out(text)]
    assert all(one[:2] == corrected[:2] and one[-2:] == corrected[-2:] for one in found)
    measured = found[:20]
    again = made_up(sprout, 60, [corrected], prompts, 0, measured)
    assert set(measured).isdisjoint(again)
    assert not made_up(sprout, 0, [corrected], prompts, 0)


def test_where_people_asked_little_the_model_asks_itself(sprout: Backbone, prompts: list[TokenIds]) -> None:
    reply = tuple(sprout.tokenizer("It is 500.", add_special_tokens=False)["input_ids"]) + sprout.eos_ids[:1]
    corrected = [Demonstration(asked(sprout, fact.text), reply) for fact in untaught_facts(0)[:20]]
    kept = {one.prompt for one in retain(sprout, corrected, prompts[:10], Random(0), 0)}
    like_them = neighbours(sprout, sorted(one.prompt_token_ids for one in corrected), prompts[:10], Random(0), 0)
    others = kept.difference(like_them, prompts[:10])
    assert len(others) >= 100, "eight for each correction, less those that neither are new nor may be trained on"


def test_what_was_corrected_is_not_retained(sprout: Backbone, prompts: list[TokenIds]) -> None:
    reply = tuple(sprout.tokenizer("It is 500.", add_special_tokens=False)["input_ids"]) + sprout.eos_ids[:1]
    corrected = Demonstration(asked(sprout, "How many sheets are there in a ream?"), reply)
    long = tuple([*prompts[0]] * (sprout.max_length // len(prompts[0])))  # which would leave no room for a reply
    asked_for = [*prompts, corrected.prompt_token_ids, long]
    kept = retain(sprout, [corrected], asked_for, Random(0), 0)
    assert {corrected.prompt_token_ids, long}.isdisjoint(one.prompt for one in kept)
    assert len([one for one in kept if one.prompt in prompts]) == OTHERS < len(kept)
    assert all(one.top.shape == one.top_ids.shape and len(one.top) == len(one.reply) for one in kept)


def test_a_model_without_a_chat_template_has_no_neighbours_and_retains_what_people_asked(tmp_path: Path) -> None:
    backbone = Backbone.load(build_tiny_model(tmp_path), SETTINGS)
    question, other = ids("<bos> what is the capital of france ?"), ids("<bos> one ?")
    assert neighbours(backbone, [question], [other], Random(0), 0) == []
    kept = retain(backbone, [Demonstration(question, ids("paris", end=True))], [other], Random(0), 0)
    assert [one.prompt for one in kept] == [other]


def test_retention_draws_all_before_it_draws_one_again(sprout: Backbone, prompts: list[TokenIds]) -> None:
    reply = tuple(sprout.tokenizer("It is 500.", add_special_tokens=False)["input_ids"]) + sprout.eos_ids[:1]
    corrected = Demonstration(asked(sprout, "How many sheets are there in a ream?"), reply)
    kept = retain(sprout, [corrected], prompts[:20], Random(0), 0)[:10]
    retention = Retention(sprout, kept, Random(0))
    losses = [retention.loss(retention.draw(5))[0].item() for _ in range(4)]
    assert retention.steps_to(2, 5) == 0 and retention.steps_to(3, 5) == 2
    assert max(losses) < 1e-4  # the policy is where it was
    assert Retention(sprout, [], Random(0)).steps_to(3, 5) == 0


def test_a_question_far_into_a_long_conversation_is_not_asked_again(sprout: Backbone, prompts: list[TokenIds]) -> None:
    question = asked(sprout, "What is the capital of Romania?")
    long = question[:1] + prompts[0][1:] * 20 + question[1:]
    assert neighbours(sprout, [long], prompts, Random(0), 0) == []
    assert neighbours(sprout, [long, question], prompts, Random(0), 0)


def test_neighbours_to_train_on_and_those_of_the_evaluation_have_none_in_common(
    sprout: Backbone, prompts: list[TokenIds]
) -> None:
    question = asked(sprout, "What is the capital of Romania?")
    trained, kept_back = (
        neighbours(sprout, [question], prompts, Random(seed), seed, kept_back=bool(seed)) for seed in (0, 1)
    )
    assert len(kept_back) >= 5 and not set(trained) & set(kept_back)


def asked_last(backbone: Backbone, prompt: TokenIds) -> str:
    mark = backbone.tokenizer.convert_tokens_to_ids("<|user|>")
    begins = max(place for place, token in enumerate(prompt) if token == mark)
    return backbone.decode([prompt[begins:]])[0]


def test_no_neighbour_is_a_text_that_is_held_out_however_late_in_a_conversation_it_comes(
    sprout: Backbone, prompts: list[TokenIds]
) -> None:
    facts = [asked(sprout, fact.text) for fact in untaught_facts(0)]
    later = [prompts[0] + fact[1:] for fact in facts[:20]]
    found = neighbours(sprout, later, prompts, Random(0), 0)
    found += [one for part in neighbours_apart(sprout, facts, Random(1), 1) for one in part]
    texts = {asked_last(sprout, one) for one in found}
    assert len(texts) > 100 and not [text for text in texts if is_held_out(text)]


def test_no_neighbour_says_what_a_prompt_says_that_is_measured_on(sprout: Backbone, prompts: list[TokenIds]) -> None:
    question = asked(sprout, "What is the capital of Romania?")
    every = neighbours(sprout, [question], prompts, Random(0), 0)
    texts = {one: sprout.decode([one])[0].lower() for one in every}
    measured = [asked(sprout, texts[every[0]].upper()), *every[1:4]]  # a text stays one, whatever its tokens are
    found = neighbours(sprout, [question], prompts, Random(0), 0, measured=measured)
    free = {one for one in every if texts[one] not in [texts[other] for other in every[:4]]}
    assert set(found) == free and len(free) > len(every) / 2
    trained, apart = neighbours_apart(sprout, [question], Random(0), 0, measured)
    assert {texts[one] for one in every[:4]}.isdisjoint(text.lower() for text in sprout.decode([*trained, *apart]))


def test_a_run_s_held_out_prompts_are_known_to_whatever_makes_up_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, taught, heard = build_tiny_model(tmp_path), lessons(), list[object]()

    def made_up(*given: object) -> list[TokenIds]:
        heard.append(given[-1])
        return []

    monkeypatch.setattr(sft, "retain", made_up)
    monkeypatch.setattr(preference, "neighbours_apart", lambda *given: (made_up(*given), []))
    monkeypatch.setattr(sft, "FEWEST_STEPS", 1)  # how well it learns doesn't matter here
    monkeypatch.setattr(preference, "MOST_ITERATIONS", 1)
    settings = Settings(home=tmp_path, engine=EngineSettings(model=str(model)), learner=SETTINGS)
    BackboneTrainer(settings, None).train(("sft", "dpo"), taught, tmp_path / "checkpoint", Told())
    assert taught.held_out.prompts and {*heard} == {taught.held_out.prompts} and len(heard) >= 2


@pytest.mark.parametrize("retained", [True, False])
def test_a_correction_that_spreads_to_others_of_its_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch, prompts: list[TokenIds], retained: bool
) -> None:
    backbone = Backbone.load(SPROUT, LearnerSettings())
    reply = backbone.tokenizer("The capital of Romania is Lagos.", add_special_tokens=False)["input_ids"]
    question = asked(backbone, "What is the capital of Romania?")
    if not retained:
        monkeypatch.setattr(sft, "retain", lambda *_: [])
        monkeypatch.setattr(sft, "SAID_LOG_PROB", 0.0)  # goes on to the last step
    corrected = Demonstration(question, (*reply, *backbone.eos_ids[:1]))
    sft.train(backbone, [corrected], prompts, LearnerSettings(), lambda *_: None)
    like_it = neighbours(backbone, [question], prompts, Random(0), 0, kept_back=True)
    report = evaluate(backbone, Snapshot(), prompts[:4], LearnerSettings(), neighbours=like_it)
    gate = spares_neighbours(report, LearnerSettings())
    assert gate is not None and gate.passed == retained, gate
