"""The judge of an adapter: which of several replies would the people prefer whose comparisons it was trained on?

A linear model of what a person can see in a reply (`service.adapters.text_features`), which the learner fits beside the
adapter. It lies in the adapter's folder as `judge.json`, for those adapters whose run had comparisons; engines don't
read it. A difference of two scores is the log-odds, in nats, that the first reply is preferred (Bradley-Terry).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.adapters.text_features import GROUPS
from service.adapters.weights import broken, reading

MOST_FEATURES = 2048
"""Of a group, in a judge that is served."""
LONGEST_NAME = 100
"""Characters in the name of a feature: what is longer is no word."""
MOST_BYTES = 4 << 20
"""Of a judge's file: what is larger was written by nobody here."""

GroupName = Literal["length", "marks", "ends", "words", "word pairs"]
FeatureName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Weight = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False, strict=True)]


class Judge(BaseModel):
    """The content of `judge.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    comparisons: int = Field(ge=0, description="Decided ones that it was fitted to.")
    accuracy: float = Field(ge=0, le=1, description="Of these, how many it foretells from the others (leave-one-out).")
    weights: dict[GroupName, Annotated[dict[FeatureName, Weight], Field(max_length=MOST_FEATURES)]] = Field(
        description="Nats by which a unit of a feature raises the score, by group and name of the feature."
    )

    def score(self, text: str, tokens: int) -> float:
        """In nats, of a whole reply; comparable between replies to one prompt. `tokens`: EOS included."""
        return sum(
            weights[name] * value
            for group, weights in self.weights.items()
            for name, value in GROUPS[group](text, tokens).items()
            if name in weights
        )

    def order(self, replies: Sequence[tuple[str, int, bool]]) -> list[int]:
        """Indices of replies (text, tokens, whether it has its end), best first; ties keep their order.

        A blank reply comes last, whatever its score: one word less can be liked better, and nothing is no reply. Before
        those come the ones that were cut off, of which nobody said how they are liked.
        """
        scores = [self.score(text, tokens) for text, tokens, _ in replies]
        broken = [(not text.strip(), not has_end) for text, _, has_end in replies]
        return sorted(range(len(replies)), key=lambda index: (*broken[index], -scores[index]))

    def encoded(self) -> bytes:
        """What stands in judge.json."""
        return self.model_dump_json().encode() + b"\n"


def read_judge(path: Path) -> Judge:
    """Raises AdapterBroken, which says what is wrong with the file, and AdapterUnreachable if it can't be read now."""
    with reading(path):
        if path.stat().st_size > MOST_BYTES:
            raise broken(path, f"is larger than {MOST_BYTES} bytes")
        content = path.read_bytes()
    try:
        return Judge.model_validate_json(content)
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise broken(path, f"is no judge: {where + ': ' if where else ''}{first['msg']}") from error
