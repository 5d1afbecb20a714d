"""A store with exchanges and feedback in it, written by hand: what the learner's tests begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from service.settings import LearnerSettings, Settings
from service.store.identifiers import new_id
from service.store.queries import exchanges, feedback
from service.store.session import Store
from service.wire import Comparison, Correction, Feedback, ReplyRef

PROMPT = (1, 5, 6, 7, 2)
EOS = 3


def tokenize(text: str) -> tuple[int, ...]:
    """One token a word, by its length; EOS at the end."""
    return (*(10 + len(word) for word in text.split()), EOS)


class Home:
    """A home folder with an open store, and people who chat and judge."""

    def __init__(self, path: Path, **learner: object) -> None:
        chosen = LearnerSettings(**{"tick_seconds": 0.05, "lease_seconds": 5.0, **learner})
        self.settings = Settings(home=path, learner=chosen)
        self.store = Store.open(self.settings.store_url)
        self.conversations = (f"conv_{number}" for number in count())
        """Names that are no matter of chance: what is held out goes by them."""

    def chat(
        self,
        *replies: str,
        prompt: tuple[int, ...] = PROMPT,
        caller: str = "name:ann",
        conversation: str | None = None,
        complete: bool = True,
        adapter: str = "base",
        base: str = "sprout",
        base_sha256: str | None = None,
        messages: Sequence[dict[str, str]] | None = None,
    ) -> str:
        """Store an exchange; returns its id."""
        conversation = conversation or next(self.conversations)
        found = [exchanges.NewReply(text, "stop", tokenize(text), [-0.5] * len(tokenize(text))) for text in replies]
        exchange = exchanges.NewExchange(
            id=new_id("chatcmpl"), caller=caller, conversation_id=conversation, model="hone", adapter=adapter,
            base=base, messages=messages or [{"role": "user", "content": " ".join(map(str, prompt))}],
            sampling={"temperature": 1.0}, prompt_token_ids=prompt, replies=found, complete=complete,
            base_sha256=base_sha256,
        )  # fmt: skip
        with self.store.begin() as tx:
            exchanges.add_exchange(tx, exchange)
        return exchange.id

    def judge(self, judgement: Feedback, caller: str = "name:ann") -> str:
        with self.store.begin() as tx:
            return feedback.add_feedback(tx, caller, judgement).id

    def correct(self, reply: str, better: str, caller: str = "name:ann", **chat: object) -> str:
        exchange = self.chat(reply, caller=caller, **chat)  # type: ignore[arg-type]
        return self.judge(Correction(exchange_id=exchange, text=better), caller)

    def compare(self, a: str, b: str, verdict: str, caller: str = "name:ann", strength: int = 2, **chat: object) -> str:
        exchange = self.chat(a, b, caller=caller, **chat)  # type: ignore[arg-type]
        refs = [ReplyRef(exchange_id=exchange, index=index) for index in (0, 1)]
        comparison = Comparison(a=refs[0], b=refs[1], verdict=verdict, strength=strength)
        return self.judge(comparison, caller)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.store.close()
