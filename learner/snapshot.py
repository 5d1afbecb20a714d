"""Freeze what one run learns from: every active judgement up to a position, with the tokens it is about, in one file.

`snapshot.jsonl` is canonical JSON (sorted keys, no spaces, one record a line, in order of position), so the same store
gives the same bytes and the SHA-256 of the file names the snapshot. Token ids come from the stored exchanges, as the
engine sampled them; only the text of a correction, which no engine ever sampled, is tokenised here, with the base's
tokenizer and the EOS token that must end it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from learner.base_tokenizer import Tokenize
from learner.batch import Messages
from learner.constitution.served import ServedRevision, read_revision
from learner.run_folder import write_whole
from service.errors import TrainingFailed
from service.store.queries import exchanges, feedback, revisions
from service.store.queries.revisions import RevisionPair
from service.store.tables import Exchange, FeedbackRow
from service.wire import FEEDBACK, Correction, Feedback, replies_named

NO_CONSTITUTION = ("", "")
"""Name and hash, where the one in effect can't be read."""
FORMAT_VERSION = 4
RECENT_PROMPTS = 256
"""How many of the latest prompts go in beside the judged ones: what people ask is what a candidate is sampled on."""
ALWAYS_TEACH, ALWAYS_TEACH_CORRECTIONS = 10, 200
"""The first so many judgements, and corrections among the first so many, are never held out: a small service has none
to spare, and a person who wrote the better reply out is owed the lesson. Counted in the order in which they were given,
which no change or withdrawal alters: so nothing that was taught is measured on later. (A held-out conversation in which
somebody then gives an early correction does begin to teach; from then on no run measures on it.)"""
ALIAS = "hone"
"""Only prompts asked of the live adapter count as what people ask: who names a version compares or measures."""


@dataclass(frozen=True)
class JudgedReply:
    """One reply that a judgement names. `complete`: it was not cut off by a caller who left or a failing engine."""

    exchange_id: str
    index: int
    base: str  # the base model whose tokens these are
    adapter: str
    text: str
    token_ids: tuple[int, ...]
    complete: bool


@dataclass(frozen=True)
class Judgement:
    """One feedback with everything that training needs to know of it."""

    feedback_id: str
    position: int
    caller: str
    conversation_id: str
    prompt_token_ids: tuple[int, ...]
    same_prompt: bool  # False: the replies answer prompts of different tokens, so they can't be compared
    feedback: Feedback
    replies: tuple[JudgedReply, ...]  # in the order of `replies_named`
    correction_token_ids: tuple[int, ...] = ()  # of a correction: its text and EOS
    asked_alone: Messages = ()  # of one in mid-conversation: its question as a conversation would begin with it
    messages: Messages = ()  # the conversation up to the replies


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt that somebody asked lately, judged or not."""

    conversation_id: str
    prompt_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class FrozenFeedback:
    """The content of a `snapshot.jsonl`. `position`: the last feedback that it may hold; `base`: what is trained.

    `teaching`: the conversations that are never held out. `constitution`: the version in effect, and its SHA-256.
    """

    judgements: tuple[Judgement, ...]
    prompts: tuple[AskedPrompt, ...]
    position: int
    base: str = ""
    teaching: tuple[str, ...] = ()
    hash: str = ""
    revisions: tuple[ServedRevision, ...] = ()
    constitution: tuple[str, str] = NO_CONSTITUTION


def collect(
    tx: Session,
    position: int,
    tokenize: Tokenize,
    base: str | None = None,
    base_sha256: str | None = None,
    constitution: tuple[str, str] = NO_CONSTITUTION,
) -> FrozenFeedback:
    """Read the active feedback up to `position`, the latest prompts and what was revised while serving, in one
    transaction.

    `base`: the name that the trained base model is served by; None: whatever answered last. `base_sha256`: its
    fingerprint, by which its exchanges are told from others' where both are known, whatever the names. `constitution`:
    name and SHA-256 of the version in effect.
    """
    given = [(row, FEEDBACK.validate_python(row.body)) for row in feedback.active_feedback(tx, position)]
    named = {ref.exchange_id for _, judged in given for ref in replies_named(judged)}
    known = exchanges.get_exchanges(tx, named)
    recent = exchanges.recent_prompts(tx, RECENT_PROMPTS, ALIAS)
    if base is None:
        base = recent[0].base if recent else max(known.values(), key=lambda one: one.id).base if known else ""
    bases = {exchange.id: _base_of(exchange, base, base_sha256) for exchange in (*known.values(), *recent)}
    judgements = [_judgement(row, judged, known, bases, tokenize) for row, judged in given]
    asked = {
        AskedPrompt(exchange.conversation_id, tuple(exchange.prompt_token_ids))
        for exchange in recent
        if exchange.prompt_token_ids and bases[exchange.id] == base
    }
    prompts = sorted(asked, key=lambda asked: (asked.conversation_id, asked.prompt_token_ids))
    whole = sorted((judgement for judgement in judgements if judgement), key=lambda judgement: judgement.position)
    end = tokenize("")[-1]
    served = [
        ServedRevision.of(pair, base)
        for pair in revisions.revision_pairs(tx, revisions.last_position(tx))
        if pair.prompt_token_ids and _base_of(pair, base, base_sha256) == base and pair.chosen_token_ids[-1:] == [end]
    ]
    return FrozenFeedback(
        tuple(whole), tuple(prompts), position, base, _teaching(tx), revisions=tuple(served), constitution=constitution
    )


def _base_of(exchange: Exchange | RevisionPair, base: str, base_sha256: str | None) -> str:
    """`base` for an exchange with that model, whatever it was called then; else another name."""
    if exchange.base_sha256 is None or base_sha256 is None:
        return exchange.base
    if exchange.base_sha256 == base_sha256:
        return base
    return exchange.base if exchange.base != base else f"{base} ({exchange.base_sha256[:12]})"


def _teaching(tx: Session) -> tuple[str, ...]:
    first = feedback.earliest(tx, ALWAYS_TEACH_CORRECTIONS)
    about = exchanges.get_exchanges(tx, {row.exchange_id for row in first})
    taught = [row for count, row in enumerate(first) if count < ALWAYS_TEACH or row.kind == "correction"]
    return tuple(sorted({about[row.exchange_id].conversation_id for row in taught if row.exchange_id in about}))


def _judgement(
    row: FeedbackRow,
    judged: Feedback,
    known: Mapping[str, Exchange],
    bases: Mapping[str, str],
    tokenize: Tokenize,
) -> Judgement | None:
    """None when an exchange is gone (forgotten on request): then nobody may learn from the judgement either."""
    replies, about = [], []
    for ref in replies_named(judged):
        exchange = known.get(ref.exchange_id)
        if exchange is None or ref.index >= len(exchange.replies):
            return None
        reply = exchange.replies[ref.index]
        complete = exchange.complete and bool(reply.token_ids)
        about_it = exchange.id, ref.index, bases[exchange.id], exchange.adapter
        replies.append(JudgedReply(*about_it, reply.text, tuple(reply.token_ids), complete))
        about.append(exchange)
    return Judgement(
        feedback_id=row.id,
        position=row.position,
        caller=row.caller,
        conversation_id=about[0].conversation_id,
        prompt_token_ids=tuple(about[0].prompt_token_ids),
        same_prompt=all(exchange.prompt_token_ids == about[0].prompt_token_ids for exchange in about),
        feedback=judged,
        replies=tuple(replies),
        correction_token_ids=tokenize(judged.text) if isinstance(judged, Correction) else (),
        asked_alone=_asked_alone(about[0]) if isinstance(judged, Correction) else (),
        messages=_messages(about[0]),
    )


def _messages(exchange: Exchange) -> Messages:
    return tuple((str(message["role"]), str(message["content"])) for message in exchange.messages)


def _asked_alone(exchange: Exchange) -> Messages:
    """The last question of a conversation, after the system's words; nothing where that is all of it."""
    messages = _messages(exchange)
    alone = *(message for message in messages if message[0] == "system"), *messages[-1:]
    return alone if len(alone) < len(messages) and messages[-1][0] == "user" else ()


def write_snapshot(frozen: FrozenFeedback, path: Path) -> str:
    """Write the file whole or not at all; returns its SHA-256."""
    text = "".join(_canonical(record) + "\n" for record in _records(frozen))
    write_whole(path, text)
    return hashlib.sha256(text.encode()).hexdigest()


def read_snapshot(path: Path, expected_hash: str | None = None) -> FrozenFeedback:
    """Read it back. Raises TrainingFailed when the file is missing, damaged, or not the one that was expected."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingFailed(f"The snapshot {path} can't be read: {error.strerror}.") from error
    found = hashlib.sha256(content).hexdigest()
    if expected_hash is not None and found != expected_hash:
        raise TrainingFailed(f"The snapshot {path} has changed since it was frozen: its hash is {found[:12]}….")
    try:
        head, *records = [json.loads(line) for line in content.splitlines()]
        if head["format_version"] != FORMAT_VERSION:
            raise TrainingFailed(f"The snapshot {path} has format {head['format_version']}; this is {FORMAT_VERSION}.")
        judgements = tuple(_read_judgement(r["judgement"]) for r in records if "judgement" in r)
        prompts = tuple(
            AskedPrompt(r["prompt"]["conversation_id"], tuple(r["prompt"]["prompt_token_ids"]))
            for r in records
            if "prompt" in r
        )
        served = tuple(read_revision(r["revision"]) for r in records if "revision" in r)
        position, base, teaching = int(head["position"]), str(head["base"]), tuple(head["teaching"])
        name, sha256 = head["constitution"]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingFailed(f"The snapshot {path} is damaged: {error}.") from error
    return FrozenFeedback(judgements, prompts, position, base, teaching, found, served, (str(name), str(sha256)))


def _records(frozen: FrozenFeedback) -> Iterable[dict[str, Any]]:
    head = {"position": frozen.position, "base": frozen.base, "teaching": frozen.teaching,
            "constitution": frozen.constitution}  # fmt: skip
    yield {"format_version": FORMAT_VERSION, **head}
    for judgement in frozen.judgements:
        plain = {name: value for name, value in vars(judgement).items() if name not in ("feedback", "replies")}
        body = judgement.feedback.model_dump(mode="json")
        yield {"judgement": {**plain, "feedback": body, "replies": [asdict(reply) for reply in judgement.replies]}}
    for asked in frozen.prompts:
        yield {"prompt": asdict(asked)}
    for revision in frozen.revisions:
        yield {"revision": asdict(revision)}


def _canonical(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _read_judgement(record: dict[str, Any]) -> Judgement:
    replies = tuple(JudgedReply(**{**reply, "token_ids": _ids(reply["token_ids"])}) for reply in record["replies"])
    return Judgement(
        **{
            **record,
            "feedback": FEEDBACK.validate_python(record["feedback"]),
            "replies": replies,
            "prompt_token_ids": _ids(record["prompt_token_ids"]),
            "correction_token_ids": _ids(record["correction_token_ids"]),
            "asked_alone": tuple((role, content) for role, content in record["asked_alone"]),
            "messages": tuple((role, content) for role, content in record["messages"]),
        }
    )


def _ids(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
