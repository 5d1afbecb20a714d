"""Ask the model in its own chat template, many at once, in the learner's process.

A request that leaves no room for its answer is not cut short, since what it asks for stands at its end: its answer is
None, and whoever asked counts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learner.adapted_model import Role
from learner.backbone import Backbone
from learner.batch import Messages, Tell, TokenIds, unheard, untold
from learner.sampling import Reply, longest_prompt, sample
from service.errors import TrainingFailed

Request = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`, as `service.constitution.prompts` words them."""


@dataclass(frozen=True)
class Said:
    """An answer."""

    text: str
    token_ids: TokenIds  # EOS included where it ended by itself
    ended: bool  # False: cut at the length limit

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Said:
        """From JSON's values."""
        return cls(record["text"], tuple(record["token_ids"]), record["ended"])


HeardSaid = Callable[[int, Said], None]
"""Called with each answer as it comes, and which request it answers, in the process that has it first."""


def as_request(conversation: Messages) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in conversation]


def render(tokenizer: Any, request: Request) -> TokenIds:
    """A conversation as a prompt in the model's chat template, up to where the reply begins.

    The name of a special token in what people or models wrote stays text: it ends no turn and begins none. Raises
    TrainingFailed for a model without a template, or with one that takes no such conversation.
    """
    if not tokenizer.chat_template:
        raise TrainingFailed("The base model has no chat template, so it can't be asked anything.")
    said = [{**message, "content": _as_text(tokenizer, message["content"])} for message in request]
    try:
        encoded = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=True)
    except Exception as error:  # a template is a program of the model's author, and says no in its own way
        why = str(error).rstrip(".")
        raise TrainingFailed(f"The base model's chat template takes no such conversation: {why}.") from error
    if not encoded["input_ids"]:
        raise TrainingFailed("The base model's chat template gives an empty prompt.")
    return tuple(int(token) for token in encoded["input_ids"])


def question(tokenizer: Any, text: str) -> TokenIds:
    """A conversation that is one question. Raises TrainingFailed as `render` does."""
    return render(tokenizer, as_request((("user", text),)))


def _as_text(tokenizer: Any, text: str) -> str:
    """Without the names of special tokens: a space keeps each apart from itself."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for name in sorted(added, key=len, reverse=True):
        text = text.replace(name, f"{name[:1]} {name[1:]}")
    return text


def ask(
    backbone: Backbone,
    requests: Sequence[Request],
    *,
    role: Role = "base",
    max_new_tokens: int = 192,
    temperature: float = 0.0,
    seed: int = 0,
    tell: Tell = untold,
    heard: HeardSaid = unheard,
) -> list[Said | None]:
    """An answer to each request, in order; None where request and answer don't fit the model's context together.

    Temperature 0 gives the likeliest answer; `tell` hears how many have come, and `heard` which. Raises TrainingFailed
    as `render` does.
    """
    room = longest_prompt(backbone, max_new_tokens)
    prompts = {index: render(backbone.tokenizer, request) for index, request in enumerate(requests)}
    fitting = [index for index, prompt in prompts.items() if len(prompt) <= room]
    replies = sample(
        backbone, [prompts[index] for index in fitting], role=role, max_new_tokens=max_new_tokens,
        temperature=temperature, seed=seed, tell=tell,
        heard=lambda reply: heard(fitting[reply.prompt], as_said(backbone, reply)),
    )  # fmt: skip
    found: list[Said | None] = [None] * len(requests)
    for index, (reply,) in zip(fitting, replies, strict=True):
        found[index] = as_said(backbone, reply)
    return found


def as_said(backbone: Backbone, reply: Reply) -> Said:
    """A sampled reply with its text."""
    return Said(backbone.decode([reply.token_ids])[0].strip(), reply.token_ids, reply.ended)
