"""Best-of-N: of several sampled replies the one that people would like best, as the adapter's judge sees it.

The engine samples all of them in one request, which computes the prompt once. Choosing by a score needs no change to
the weights, and takes replies at most log N - (N - 1) / N nats from the policy (Beirami et al., arXiv 2401.01879, prove
the bound that Stiennon et al., arXiv 2009.01325, use).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.adapters.judge import Judge
from service.chat.judges import Judges
from service.chat.request import ChatRequest
from service.errors import AdapterUnreachable, BadInput
from service.settings import ChatSettings


@dataclass(frozen=True)
class BestOf:
    """`samples` are drawn, and the best `kept` of them answered."""

    samples: int
    kept: int
    judge: Judge

    def choose(self, answer: dict[str, Any]) -> int:
        """Leave the best choices in the engine's whole `answer`, best first, numbered anew; ties in the engine's order.

        Returns how many tokens the others have. The answer's `usage` counts these, too, and stays as it is.
        """
        choices = answer["choices"]
        tokens = [len(choice.get("token_ids") or ()) for choice in choices]
        texts = [choice["message"].get("content") or "" for choice in choices]
        whole = [choice.get("finish_reason") != "length" for choice in choices]
        best = self.judge.order(list(zip(texts, tokens, whole, strict=True)))[: self.kept]
        answer["choices"] = [choices[place] | {"index": index} for index, place in enumerate(best)]
        return sum(tokens) - sum(tokens[place] for place in best)


async def what_to_choose(request: ChatRequest, settings: ChatSettings, judges: Judges, adapter: str) -> BestOf | None:
    """What a request, or else the setting, asks for; None where all that is sampled is answered.

    A setting that can't be obeyed (no judge; greedy replies, which are all the same) is passed over, and so it is where
    several are asked for, to compare them: the judge's two favourites in its order would say little new. Raises
    BadInput for a request that can't, AdapterUnreachable where that may pass.
    """
    kept, samples = request.n or 1, request.best_of or settings.best_of
    if samples <= kept:
        return None
    if request.best_of is None and (kept > 1 or request.sampling(settings)["temperature"] == 0):
        return None
    found = await judges.of(adapter)
    if found.judge is not None:
        return BestOf(samples, kept, found.judge)
    if request.best_of is None:
        return None
    if found.may_pass:
        raise AdapterUnreachable(f"best_of: {found.why_none}.", "Try again in a moment, or leave best_of out.")
    why = "It needs a version whose run had comparisons; leave best_of out, or name such a version."
    raise BadInput(f"best_of: {found.why_none.rstrip('.')}.", why, param="best_of")


def as_chunks(answer: dict[str, Any], include_usage: bool) -> Iterator[dict[str, Any]]:
    """A whole answer as the events of a stream: who speaks, all of the text, the end, and the usage if it is wanted."""
    head: dict[str, Any] = {name: answer[name] for name in ("id", "created", "model") if name in answer}
    head["object"] = "chat.completion.chunk"
    nothing = {"logprobs": None, "finish_reason": None}
    for choice in answer["choices"]:
        first = {"index": choice["index"], "delta": {"role": "assistant", "content": ""}, **nothing}
        prompt = {"prompt_token_ids": answer.get("prompt_token_ids")} if choice["index"] == 0 else {}
        yield head | prompt | {"choices": [first]}
        said = {"content": choice["message"].get("content") or ""}
        kept = {name: choice.get(name) for name in ("logprobs", "token_ids")}
        yield head | {"choices": [{"index": choice["index"], "delta": said, "finish_reason": None, **kept}]}
        end = {"index": choice["index"], "delta": {}, **nothing, "finish_reason": choice["finish_reason"]}
        yield head | {"choices": [end]}
    if include_usage:
        yield head | {"choices": [], "usage": answer.get("usage")}
