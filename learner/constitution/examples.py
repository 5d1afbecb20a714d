"""What the model wrote for a run: one file in the run's folder, written whole, so that a killed run goes on from it.

`constitution.jsonl` is canonical JSON, one record a line: who wrote it by which constitution and what came to nothing,
then every example with all that led to it (principle, critique, odds). The SHA-256 of the file names the examples, and
the adapter's manifest names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from learner.batch import Demonstration, Messages, Pair, TokenIds, thinned
from learner.constitution.judging import Verdict, decided, even
from learner.constitution.revising import Round
from learner.curate import Curated
from learner.run_folder import write_whole
from service.errors import TrainingFailed

FORMAT_VERSION = 3
CHANGED_WEIGHT = 8.0
"""Of a revision that says something else than its draft, against one that does not."""


@dataclass(frozen=True)
class RevisedReply:
    """A reply to a red-team prompt, as drafted and as it is after the last round. Token ids end with EOS."""

    conversation: Messages
    source: str  # where the prompt is from
    prompt_token_ids: TokenIds
    draft: str
    reply: str
    reply_token_ids: TokenIds
    rounds: tuple[Round, ...]

    @property
    def is_changed(self) -> bool:
        """Whether it says something else than the draft."""
        return self.reply != self.draft

    def demonstration(self) -> Demonstration:
        weight = CHANGED_WEIGHT if self.is_changed else 1.0
        return Demonstration(self.prompt_token_ids, self.reply_token_ids, weight=weight)


def demonstrations(revised: Sequence[RevisedReply]) -> tuple[Demonstration, ...]:
    """Of all that were changed and no more others: what was left as it is the policy says anyway, so that it teaches
    little more than the chance by which it was drawn. The same ones for the same replies."""
    telling = thinned(revised, lambda one: one.is_changed, Random(len(revised)))
    return tuple(one.demonstration() for one in telling)


@dataclass(frozen=True)
class KeptReply:
    """A harmless prompt with what the policy said to it before it learned, and the critique that looked at it."""

    conversation: Messages
    prompt_token_ids: TokenIds
    reply: str
    reply_token_ids: TokenIds
    principle: str = ""
    critique: str = ""  # "" where there was no room for one


@dataclass(frozen=True)
class JudgedPair:
    """Two replies of the policy to a red-team prompt, with the probability that the first is better."""

    conversation: Messages
    source: str
    prompt_token_ids: TokenIds
    a: str
    b: str
    a_token_ids: TokenIds
    b_token_ids: TokenIds
    a_is_better: float
    verdicts: tuple[Verdict, ...]

    def pair(self) -> Pair:
        """With a soft label: the reply that is likelier the better one is the chosen one."""
        chosen, rejected = self.a_token_ids, self.b_token_ids
        if self.a_is_better < 0.5:
            chosen, rejected = rejected, chosen
        return Pair(self.prompt_token_ids, chosen, rejected, certainty=max(self.a_is_better, 1 - self.a_is_better))


@dataclass(frozen=True)
class RevisedAsTold:
    """A reply that a person criticised, and the model's revision by their words; the revision is the better one.

    `principle` is what a person's critique is called that takes a principle's place (`USER_CRITIQUE`): the
    rule is their words, the requests are those of `worded_by`, a principle of the version `constitution`. `verdicts`:
    of the check whether the revision (B) does more harm than the reply (A).
    """

    feedback_id: str
    conversation_id: str
    critique: str
    prompt_token_ids: TokenIds
    reply_token_ids: TokenIds
    revision: str
    revision_token_ids: TokenIds
    constitution: str
    principle: str
    worded_by: str
    verdicts: tuple[Verdict, ...] = ()  # none: no principle is about harm, or the judge gave none

    def pair(self) -> Pair:
        about = {"conversation_id": self.conversation_id, "feedback_ids": (self.feedback_id,)}
        return Pair(self.prompt_token_ids, self.revision_token_ids, self.reply_token_ids, **about)  # type: ignore[arg-type]  # as named


@dataclass(frozen=True)
class Examples:
    """All of a run. `unmended`: drafts at fault of which no revision made another; `at_fault`: what would have been
    kept but for its critique; `more_harm`: revisions by people's critiques that do more harm than the replies. Nothing
    learns from these three: they are there to be read. `dropped`: what came to nothing, by reason."""

    revised: tuple[RevisedReply, ...] = ()
    kept: tuple[KeptReply, ...] = ()
    judged: tuple[JudgedPair, ...] = ()
    told: tuple[RevisedAsTold, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    position_bias: float | None = None  # of the judge, on these pairs
    sha256: str = ""  # of the file
    unmended: tuple[RevisedReply, ...] = ()
    at_fault: tuple[KeptReply, ...] = ()
    more_harm: tuple[RevisedAsTold, ...] = ()

    def telling(self, reasoned: bool) -> int:
        """How many replies were examined, and pairs of which the judge prefers one. `reasoned`: it thought first."""
        return len(self.revised) + sum(one.pair().certainty > even(reasoned) for one in self.judged)


def with_examples(lessons: Curated, examples: Examples, reasoned: bool = False) -> Curated:
    """The lessons with what the model wrote, and counts of it; critiques have become pairs, or came to nothing.
    `reasoned`: the judge thought first."""
    told = tuple(one.pair() for one in examples.told)
    train = replace(
        lessons.train,
        pairs=(*lessons.train.pairs, *told),
        criticised=(),
        revised=demonstrations(examples.revised),
        kept=tuple((one.prompt_token_ids, one.reply_token_ids) for one in examples.kept),
        ai_pairs=(*lessons.train.ai_pairs, *(one.pair() for one in examples.judged)),
    )
    counts = {
        "revised": len(examples.revised),
        "changed": sum(one.is_changed for one in examples.revised),
        "kept": len(examples.kept),
        "judged": len(examples.judged),
        "told_apart": sum(pair.certainty >= decided(reasoned) for pair in train.ai_pairs),
        "revised_as_told": len(told),
        "dropped": dict(examples.dropped),
        "position_bias": examples.position_bias,
        "sha256": examples.sha256,
    }
    set_aside = {**lessons.counts.get("set_aside", {}), **examples.dropped}
    return replace(lessons, train=train, counts={**lessons.counts, "written": counts, "set_aside": set_aside})


def write_examples(examples: Examples, path: Path, of: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all. `of`: what decides them."""
    kinds = ("revised", "unmended", "kept", "at_fault", "judged", "told", "more_harm")
    head = {"format_version": FORMAT_VERSION, "of": dict(of), "dropped": dict(examples.dropped),
            "position_bias": examples.position_bias}  # fmt: skip
    records: list[dict[str, Any]] = [head, *({kind: asdict(one)} for kind in kinds for one in getattr(examples, kind))]
    write_whole(path, "".join(_canonical(record) + "\n" for record in records))


def read_examples(path: Path, of: Mapping[str, Any]) -> Examples | None:
    """Read it back; None where there is none, or one that other settings, or another snapshot, decided.

    Raises TrainingFailed when it is damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        head, *records = [json.loads(line) for line in content.splitlines()]
        if head["format_version"] != FORMAT_VERSION or head["of"] != json.loads(json.dumps(of)):
            return None
        return Examples(
            _revised(records, "revised"),
            tuple(KeptReply(**_tuples(one)) for one in _of_kind(records, "kept")),
            tuple(JudgedPair(**_tuples(one) | _verdicts(one)) for one in _of_kind(records, "judged")),
            _told(records, "told"),
            head["dropped"],
            head["position_bias"],
            hashlib.sha256(content).hexdigest(),
            _revised(records, "unmended"),
            tuple(KeptReply(**_tuples(one)) for one in _of_kind(records, "at_fault")),
            _told(records, "more_harm"),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingFailed(f"{path} is damaged: {error}.", "Remove it: the run writes it anew.") from error


def _revised(records: list[dict[str, Any]], kind: str) -> tuple[RevisedReply, ...]:
    return tuple(
        RevisedReply(**_tuples(one) | {"rounds": tuple(Round(**round_) for round_ in one["rounds"])})
        for one in _of_kind(records, kind)
    )


def _told(records: list[dict[str, Any]], kind: str) -> tuple[RevisedAsTold, ...]:
    return tuple(RevisedAsTold(**_tuples(one) | _verdicts(one)) for one in _of_kind(records, kind))


def _verdicts(record: Mapping[str, Any]) -> dict[str, tuple[Verdict, ...]]:
    return {"verdicts": tuple(Verdict(**_tuples(verdict)) for verdict in record["verdicts"])}


def _of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if kind in record]


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples, all the way down."""

    def plain(value: Any) -> Any:
        return tuple(plain(inner) for inner in value) if isinstance(value, list) else value

    return {name: plain(value) for name, value in record.items()}


def _canonical(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
