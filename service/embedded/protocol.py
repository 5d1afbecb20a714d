"""What requests may say: OpenAI's chat completions and completions with vLLM's extras, checked and made explicit.

Fields that OpenAI has and this engine lacks are refused when they ask for something; fields nobody knows are ignored,
as vLLM ignores them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.embedded.messages import SamplingParams
from service.embedded.tokenizer import Tokenizer
from service.errors import BadInput

MOST_CHOICES = 128
MOST_LOGPROBS = 20
USUAL_COMPLETION = 16  # tokens of a completion that names no length, as OpenAI and vLLM have it
LEAST_TEMPERATURE = 1e-5  # below, a softmax overflows: that is greedy


class StreamOptions(BaseModel):
    include_usage: bool = False


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    ignore_eos: bool = False
    prompt_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    return_token_ids: bool = False
    add_special_tokens: bool | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None

    @model_validator(mode="after")
    def _refuse_what_we_lack(self) -> Self:
        lacking = {
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": (self.repetition_penalty or 1.0) != 1.0,
            "logit_bias": self.logit_bias,
            "response_format": (self.response_format or {}).get("type", "text") != "text",
            "tools": self.tools,
        }
        if asked := [name for name, wanted in lacking.items() if wanted]:
            raise ValueError(f"the embedded engine does not support {', '.join(asked)}")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs cannot be streamed")
        return self

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None

    def plain(self) -> dict[str, Any]:
        """As templates take it: content as one string. Raises BadInput for anything but text."""
        if not isinstance(self.content, list):
            return {**self.model_dump(), "content": self.content or ""}
        if other := [part.get("type") for part in self.content if part.get("type") != "text"]:
            raise BadInput(f"Only text parts are supported, not {other[0]}.", param="messages")
        return {**self.model_dump(), "content": "".join(str(part.get("text", "")) for part in self.content)}


class ChatRequest(_Request):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class CompletionRequest(_Request):
    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(USUAL_COMPLETION, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    echo: bool = False
    suffix: str | None = None
    best_of: Literal[1] | None = None

    @model_validator(mode="after")
    def _refuse_suffix(self) -> Self:
        if self.suffix:
            raise ValueError("the embedded engine does not support suffix")
        return self


@dataclass(frozen=True)
class Limits:
    """What the engine can take, and how it samples where a request does not say."""

    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    defaults: Mapping[str, float] = field(default_factory=dict)  # from the model's generation_config.json


@dataclass(frozen=True)
class Job:
    """A request made explicit: its prompts as token ids, and how each of the `n` choices per prompt is sampled."""

    prompts: list[list[int]]
    params: SamplingParams
    n: int
    stops: list[str]
    stream: bool
    include_usage: bool
    return_token_ids: bool
    echo: bool = False

    def params_of(self, choice: int, prompt: list[int], limits: Limits) -> SamplingParams:
        """The settings of one choice: seeds count up, the length is what is left or the less that was asked for."""
        seed = None if self.params.seed is None else self.params.seed + choice
        left = limits.max_model_len - len(prompt)
        return replace(self.params, seed=seed, max_tokens=min(self.params.max_tokens or left, left))


def chat_job(request: ChatRequest, tokenizer: Tokenizer, limits: Limits) -> Job:
    """Render and tokenise the conversation."""
    if request.continue_final_message and request.add_generation_prompt:
        if "add_generation_prompt" in request.model_fields_set:
            raise BadInput("continue_final_message and add_generation_prompt exclude each other.")
        request.add_generation_prompt = False
    messages = [message.plain() for message in request.messages]
    text = tokenizer.render(messages, request.add_generation_prompt, request.continue_final_message)
    prompt = tokenizer.encode(text, special=bool(request.add_special_tokens))
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return _job(request, [prompt], request.max_completion_tokens or request.max_tokens, logprobs, limits)


def completion_job(request: CompletionRequest, tokenizer: Tokenizer, limits: Limits) -> Job:
    """Tokenise the prompt or prompts that are text."""
    given = request.prompt
    if given == []:
        raise BadInput("The prompt is empty.", param="prompt")
    many = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    special = request.add_special_tokens is not False
    prompts = [tokenizer.encode(one, special) if isinstance(one, str) else list(one) for one in many]
    return _job(request, prompts, request.max_tokens, request.logprobs, limits, request.echo)


def _job(
    request: _Request,
    prompts: list[list[int]],
    max_tokens: int | None,
    logprobs: int | None,
    limits: Limits,
    echo: bool = False,
) -> Job:
    for prompt in prompts:
        _check_prompt(prompt, max_tokens, limits, "messages" if isinstance(request, ChatRequest) else "prompt")
    ends = frozenset() if request.ignore_eos else limits.eos_token_ids

    def setting(given: float | None, name: str, usual: float) -> float:
        return given if given is not None else limits.defaults.get(name, usual)

    temperature = setting(request.temperature, "temperature", 1.0)
    top_k = int(setting(request.top_k, "top_k", 0))
    params = SamplingParams(
        max_tokens=max_tokens or 0,
        temperature=temperature if temperature >= LEAST_TEMPERATURE else 0.0,
        top_p=setting(request.top_p, "top_p", 1.0),
        top_k=top_k if 0 < top_k < limits.vocab_size else 0,
        min_p=setting(request.min_p, "min_p", 0.0),
        seed=request.seed,
        stop_token_ids=ends | frozenset(request.stop_token_ids or ()),
        logprobs=logprobs,
        prompt_logprobs=logprobs if echo and logprobs is not None else request.prompt_logprobs,
    )
    return Job(
        prompts=prompts,
        params=params,
        n=request.n,
        stops=request.stops,
        stream=request.stream,
        include_usage=request.stream_options is not None and request.stream_options.include_usage,
        return_token_ids=request.return_token_ids,
        echo=echo,
    )


def _check_prompt(prompt: list[int], max_tokens: int | None, limits: Limits, param: str) -> None:
    if not prompt:
        raise BadInput("The prompt is empty.", param=param)
    if bad := [token for token in prompt if not 0 <= token < limits.vocab_size]:
        raise BadInput(f"Token id {bad[0]} is not in the vocabulary of {limits.vocab_size}.", param=param)
    if len(prompt) >= limits.max_model_len:
        raise BadInput(
            f"The prompt has {len(prompt)} tokens; the context holds {limits.max_model_len} with the reply.",
            "Shorten the prompt.",
            param=param,
        )
    if (max_tokens or 0) > limits.max_model_len:
        raise BadInput(
            f"max_tokens is {max_tokens}; the context holds {limits.max_model_len} tokens.",
            "Lower max_tokens.",
            param="max_tokens",
        )
