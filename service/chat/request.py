"""The body of `POST /v1/chat/completions`: OpenAI's schema, checked so that every refusal names the field at fault.

Fields that change nothing here are ignored, because clients send them unasked (`store`, `metadata`, an empty `tools`
list, …). Fields that would change the reply and can't be obeyed are refused, and so is a value of another type, like a
number in quotes: silently doing something else is worse than an error.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.settings import ChatSettings
from service.wire import MAX_NAME, Fraction, HoneOptions, Truth, Whole, storable

MAX_MESSAGES = 2_000
MAX_STOPS = 16
SEED_LIMIT = 2**63
MOST_TOKENS = 2**31 - 1
"""More than any context holds, and what every JSON writer between here and the engine can say."""


def _plain_text(content: Any) -> Any:
    """OpenAI's list of parts, joined, when all of them are text."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in ("text", "input_text", "output_text"):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise PydanticCustomError("unsupported", "only text parts are understood, not {kind}", {"kind": repr(kind)})
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("unsupported", "a text part needs a string in its field text")
        texts.append(part["text"])
    return "".join(texts)


def _refuse(what: str, allowed: tuple[Any, ...]) -> BeforeValidator:
    """A field that is accepted only with a value that asks for nothing."""

    def check(value: Any) -> Any:
        if value not in allowed:
            raise PydanticCustomError("unsupported", "{what} is not supported; leave it out", {"what": what})
        return value

    return BeforeValidator(check)


def _about(field: str, problem: str) -> PydanticCustomError:
    """An error of the whole body that one field is to blame for (`service.error_handlers` reads `param`)."""
    return PydanticCustomError("disagreement", "{param} {problem}", {"param": field, "problem": problem})


def _as_list(stop: Any) -> Any:
    """OpenAI's `stop` is null, one string or a list of them."""
    return () if stop is None else (stop,) if isinstance(stop, str) else stop


Stop = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(storable)]
Content = Annotated[str, BeforeValidator(_plain_text), AfterValidator(storable)]


class Message(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    tool_calls: Annotated[Any, _refuse("tool calling", (None, []))] = None

    def for_engine(self) -> dict[str, str]:
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    include_usage: Truth = False


class ChatRequest(BaseModel):
    """A chat completion request. Defaults of sampling come from the settings (`[chat]`)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = Field(min_length=1, max_length=256, description="`hone`, `hone:vN` or `hone:base`.")
    messages: tuple[Message, ...] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: Truth | None = None
    stream_options: StreamOptions | None = None
    n: Whole | None = Field(None, ge=1)
    best_of: Whole | None = Field(None, ge=1, description="Samples of which the best `n` are answered.")
    temperature: Fraction | None = Field(None, ge=0, le=2)
    top_p: Fraction | None = Field(None, gt=0, le=1)
    top_k: Whole | None = Field(None, ge=-1, le=MOST_TOKENS)
    min_p: Fraction | None = Field(None, ge=0, le=1)
    seed: Whole | None = Field(None, ge=-SEED_LIMIT, lt=SEED_LIMIT)
    stop: Annotated[tuple[Stop, ...], BeforeValidator(_as_list), Field(max_length=MAX_STOPS)] = ()
    max_tokens: Whole | None = Field(None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: Whole | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: Truth | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)
    return_token_ids: Truth | None = None
    user: Annotated[str, AfterValidator(storable)] | None = Field(None, max_length=MAX_NAME)
    hone: HoneOptions | None = None

    tools: Annotated[Any, _refuse("tool calling", (None, []))] = None
    tool_choice: Annotated[Any, _refuse("tool calling", (None, "none", "auto"))] = None
    functions: Annotated[Any, _refuse("function calling", (None, []))] = None
    function_call: Annotated[Any, _refuse("function calling", (None, "none", "auto"))] = None
    response_format: Annotated[Any, _refuse("a response format but text", (None, {"type": "text"}))] = None
    modalities: Annotated[Any, _refuse("a modality but text", (None, ["text"]))] = None
    audio: Annotated[Any, _refuse("audio", (None,))] = None
    logit_bias: Annotated[Any, _refuse("a bias", (None, {}))] = None
    frequency_penalty: Annotated[Fraction | None, _refuse("a penalty", (None, 0))] = None
    presence_penalty: Annotated[Fraction | None, _refuse("a penalty", (None, 0))] = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise _about("stream_options", "is only allowed when stream is true")
        if self.top_logprobs is not None and not self.logprobs:
            raise _about("top_logprobs", "is only allowed when logprobs is true")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise _about("best_of", "must be at least n")
        return self

    def sampling(self, defaults: ChatSettings) -> dict[str, Any]:
        """Every setting that this reply is sampled with; stored with the exchange.

        None that changes probabilities is left out: an engine would fill in what the model's makers suggest.
        """
        chosen: dict[str, Any] = {
            "n": self.n or 1,
            "temperature": defaults.temperature if self.temperature is None else self.temperature,
            "top_p": defaults.top_p if self.top_p is None else self.top_p,
            "top_k": self.top_k or 0,  # 0: all
            "min_p": self.min_p or 0.0,
            "max_tokens": self.max_completion_tokens or self.max_tokens or defaults.max_tokens,
        }
        if self.seed is not None:
            chosen["seed"] = self.seed
        if self.stop:
            chosen["stop"] = list(self.stop)
        return chosen

    @property
    def names_a_length(self) -> bool:
        return bool(self.max_completion_tokens or self.max_tokens)

    @property
    def asks_for_principles(self) -> bool | None:
        """Whether the reply is to be criticised and revised under the constitution; None: it doesn't say."""
        return self.hone.constitutional if self.hone is not None else None

    @cached_property
    def engine_messages(self) -> list[dict[str, str]]:
        return [message.for_engine() for message in self.messages]

    def engine_body(self, engine_model: str, sampling: dict[str, Any]) -> dict[str, Any]:
        """What the engine is asked: token ids and log-probabilities always, whoever may see them."""
        body = {
            "model": engine_model,
            "messages": self.engine_messages,
            **sampling,
            "logprobs": True,
            "top_logprobs": self.top_logprobs or 0,
        }
        if self.stream_options is not None and self.stream_options.include_usage:
            body["stream_options"] = {"include_usage": True}
        return body
