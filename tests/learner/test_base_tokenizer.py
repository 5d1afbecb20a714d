"""The base model's tokenizer, as the learner loads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from transformers import AutoTokenizer

from learner.base_tokenizer import context_length, load_tokenizer, reply_tokenizer
from learner.constitution.asking import question
from service.settings import SPROUT


@pytest.fixture
def transformers_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    log = logging.getLogger("transformers")
    log.addHandler(caplog.handler)
    yield caplog
    log.removeHandler(caplog.handler)


def test_a_text_longer_than_the_context_is_counted_without_a_warning(
    transformers_log: pytest.LogCaptureFixture,
) -> None:
    room = context_length(str(SPROUT))
    assert room is not None
    long = "no " * (room + 1)
    assert len(question(load_tokenizer(SPROUT), long)) > room and len(reply_tokenizer(str(SPROUT))(long)) > room
    assert not transformers_log.records
    plain = AutoTokenizer.from_pretrained(SPROUT)
    assert load_tokenizer(SPROUT)(long) == plain(long)
    assert "longer than the specified maximum" in transformers_log.text
