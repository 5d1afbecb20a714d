"""Labels that say whether a reply does harm: what they make of it beside thumbs, and what a reward model learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.backbone import Backbone
from learner.called import DISAGREEMENT, NONE_OF_HARM, SAID_AGAIN, THUMB_SAYS_MORE
from learner.curate import Curated
from learner.methods import reward
from learner.snapshot import collect
from learner.summary import describe, learned_from
from learner.trainer import as_labels, stages_of
from learner.votes import CUT_OFF
from service.settings import LearnerSettings
from service.store.queries import feedback
from service.wire import Label, Ranking, ReplyRef
from tests.learner.curating import curated, preferences, thumb
from tests.learner.progress import Heard
from tests.learner.store_fixtures import PROMPT, Home, tokenize
from tests.learner.store_fixtures import home as home

FORMS = {
    True: ("harmful", " Unsafe", "dangerous", "hateful", "ILLEGAL"),
    False: ("okay", "harmless", "OK", "safe", "okay"),
}


def label(home: Home, reply: str, name: str, caller: str = "name:ann", **chat: object) -> str:
    exchange = home.chat(reply, caller=caller, **chat)  # type: ignore[arg-type]
    return home.judge(Label(exchange_id=exchange, labels=("too long", name)), caller)


def called(found: Curated) -> dict[tuple[int, ...], tuple[bool, float]]:
    """By reply: whether it is good, and how much that counts."""
    return {one.reply_token_ids: (one.desirable, one.weight) for one in found.train.labels}


def test_a_reply_that_was_labelled_harmful_in_the_store_has_the_lower_reward(home: Home, folder: Path) -> None:
    """From people's labels to the fitted model: it tells replies apart that nobody judged."""
    for number in range(80):
        does_harm = number % 2 == 1
        reply = f"{'h' * 9 if does_harm else 'k' * 5} {'a' * (1 + number % 4)} {'a' * (10 + number % 7)}"
        label(home, reply, FORMS[does_harm][number % 5], prompt=(0, 20 + number % 20, 8 + number // 20))
    train = curated(home, held_out_share=1e-9).train
    assert [sum(one.desirable == good for one in train.labels) for good in (True, False)] == [40, 40]
    settings = LearnerSettings(rank=4, alpha=8.0, reward_learning_rate=1e-2, reward_epochs=12)
    model = reward.fit(Backbone.load(folder, settings), train.pairs, train.labels, settings, Heard())
    assert model.fit.labels == 80 and model.fit.label_accuracy is not None and model.fit.label_accuracy >= 0.9
    harmless, harmful = (
        model.score([((0, 20 + n, 16), tokenize(f"{words} {'a' * (5 + n % 4)}")) for n in range(12)])
        for words in ("k" * 5, "h" * 9)
    )
    assert harmful.mean() < 0 < harmless.mean()
    assert (harmful < harmless).float().mean() >= 0.9
    assert torch.isfinite(torch.cat([harmful, harmless])).all()


def test_what_does_no_harm_is_good_beside_harmful_replies_alone_and_counts_no_more_than_these(home: Home) -> None:
    for number in range(4):
        label(home, "a", "okay", prompt=(1, 20 + number, 2))
    found = curated(home, held_out_share=1e-9)
    assert found.train.labels == () and found.counts["set_aside"] == {NONE_OF_HARM: 4}
    label(home, "bb", "harmful", prompt=(1, 30, 2))
    found = curated(home, held_out_share=1e-9)
    assert [(one.desirable, one.weight, one.by_thumb) for one in found.train.labels] == [
        *[(True, 0.25, False)] * 4,
        (False, 1.0, False),
    ]
    assert not found.set_aside and found.counts["train"]["good"] == 4 and found.counts["train"]["bad"] == 1


def test_one_persons_thumb_and_label_on_a_reply_count_once(home: Home) -> None:
    for _ in range(2):
        names = [thumb(home, "a", False), label(home, "a", "harmful")]
    (one,) = curated(home).train.labels
    assert (one.desirable, one.weight, one.by_thumb, one.feedback_ids) == (False, 1.0, True, tuple(names))
    assert curated(home).counts["set_aside"] == {SAID_AGAIN: 2}
    thumb(home, "a", True, "name:bob")
    assert not curated(home).train.labels  # one against one, not two
    assert curated(home).counts["set_aside"] == {SAID_AGAIN: 2, DISAGREEMENT: 3}


def test_a_thumb_that_made_a_pair_has_said_what_its_persons_label_says(home: Home) -> None:
    thumb(home, "a", True)
    thumb(home, "bb", False)
    label(home, "bb", "harmful")
    found = curated(home)
    assert preferences(found) == {(tokenize("a"), tokenize("bb"))}
    assert not found.train.labels and found.counts["set_aside"] == {SAID_AGAIN: 1}
    label(home, "bb", "harmful", "name:bob")
    found = curated(home)
    assert preferences(found) == {(tokenize("a"), tokenize("bb"))} and called(found) == {tokenize("bb"): (False, 1.0)}


def test_what_does_harm_is_bad_whoever_likes_it_unless_as_many_say_otherwise(home: Home) -> None:
    thumb(home, "a", True)
    label(home, "a", "harmful")
    assert called(curated(home)) == {tokenize("a"): (False, 1.0)}
    for caller, name in (("name:bob", "harmful"), ("name:cid", "okay")):
        label(home, "a", name, caller)
    (one,) = curated(home).train.labels
    assert not one.desirable and one.weight == pytest.approx(1 / 3)
    thumb(home, "a", True, "name:dan")
    assert called(curated(home)) == {}


def test_no_harm_says_nothing_against_or_for_a_thumb(home: Home) -> None:
    label(home, "cccc", "harmful", prompt=(1, 9, 2))
    for reply, good in (("a", False), ("bb", False)):
        thumb(home, reply, good)
        label(home, reply, "okay", "name:ann" if reply == "a" else "name:bob")
    found = curated(home)
    assert called(found) == {tokenize(reply): (False, 1.0) for reply in ("a", "bb", "cccc")}
    assert found.counts["set_aside"] == {THUMB_SAYS_MORE: 2}


def test_labels_that_are_changed_withdrawn_or_of_a_cut_off_reply_are_as_thumbs_are(home: Home) -> None:
    exchange = home.chat("a")
    home.judge(Label(exchange_id=exchange, labels=("harmful",)))
    newest = home.judge(Label(exchange_id=exchange, labels=("okay", "harmful")))
    (one,) = curated(home).train.labels
    assert (one.desirable, one.feedback_ids) == (False, (newest,))
    home.judge(Label(exchange_id=exchange, labels=("rude",)))
    assert not curated(home).train.labels  # which is their newest word
    name = label(home, "bb", "harmful")
    label(home, "ccc", "harmful", complete=False)
    assert called(curated(home)) == {tokenize("bb"): (False, 1.0)}
    assert curated(home).counts["set_aside"][CUT_OFF] == 1
    with home.store.begin() as tx:
        feedback.withdraw_feedback(tx, "name:ann", name)
    assert not curated(home).train.labels


def test_a_reply_that_wins_comparisons_is_not_bad_for_a_label(home: Home) -> None:
    exchange = home.chat("a", "bb")
    refs = [ReplyRef(exchange_id=exchange, index=index) for index in (0, 1)]
    home.judge(Ranking(order=((refs[0],), (refs[1],))))
    label(home, "a", "harmful")
    label(home, "bb", "harmful")
    assert called(curated(home)) == {tokenize("bb"): (False, 1.0)}
    assert curated(home).counts["set_aside"] == {DISAGREEMENT: 1}


def test_labels_start_a_reward_model_and_change_nothing_of_what_runs_choose_by_themselves(home: Home) -> None:
    for number in range(10):
        label(home, "a", "harmful" if number % 2 else "okay", prompt=(1, 20 + number, 2))
    found = curated(home, held_out_share=1e-9)
    train = found.train
    assert stages_of("auto", train) == stages_of("dpo", train) == ()
    assert stages_of("kto", train) == ("kto",)
    assert stages_of("ppo", train) == stages_of("auto", train, "ppo") == ("ppo",)
    assert stages_of("raft", train) == ("raft",)
    assert len(learned_from(found, ("ppo",))) == len(learned_from(found, ("kto",))) == len(as_labels(train)) == 10
    for number in range(4):
        home.compare("a", "bb", "a", prompt=(1, 40 + number, 2))
    found = curated(home, held_out_share=1e-9)
    assert stages_of("auto", found.train) == ("dpo",)  # labels don't outnumber pairs, as thumbs may
    with home.store.read() as tx:
        frozen = collect(tx, feedback.last_position(tx), tokenize)
    assert "10 replies labelled for harm (" in describe(frozen, found, ("dpo",))
    assert "single thumb" not in describe(frozen, found, ("dpo",))
    assert "5 good and 5 bad replies" in describe(frozen, found, ("ppo",))
    assert PROMPT not in {one.prompt_token_ids for one in found.train.labels}
