"""What the HTTP front and the worker say to each other through the pipe: plain data, pickled by `multiprocessing`."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence is sampled, and when it ends (stop strings are the front's business: it knows text)."""

    max_tokens: int
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None  # None: none; k: the sampled token's and the k likeliest tokens'
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class AddSequence:
    """Start one sequence. `sequence` is a number that the front never uses twice."""

    sequence: int
    prompt: list[int]
    params: SamplingParams
    adapter: str | None = None
    at_once: bool = False  # tell of every token as soon as it is there


@dataclass(frozen=True, slots=True)
class Abort:
    sequence: int


@dataclass(frozen=True, slots=True)
class LoadAdapter:
    ticket: int
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class UnloadAdapter:
    ticket: int
    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish nothing more and exit."""


Command = AddSequence | Abort | LoadAdapter | UnloadAdapter | Stop


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's raw log-probability and its rank (1: the likeliest) in the model's own distribution."""

    token: int
    logprob: float
    rank: int = 0


@dataclass(slots=True)
class Update:
    """What one step did for one sequence."""

    sequence: int
    token: int
    logprob: float | None = None
    top: list[TokenLogprob] | None = None
    finish: str | None = None  # "stop", "length", or "error": its numbers were not finite, and the token means nothing
    prompt_logprobs: list[list[TokenLogprob] | None] | None = None  # with the first token, when asked for

    def __reduce__(self) -> tuple[type["Update"], tuple[object, ...]]:
        """As arguments: there is one for every token, and this halves what pickling takes."""
        return Update, (self.sequence, self.token, self.logprob, self.top, self.finish, self.prompt_logprobs)


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is."""

    running: int = 0
    waiting: int = 0
    kv_tokens: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0


@dataclass(frozen=True, slots=True)
class StepDone:
    updates: list[Update]
    load: Load


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of loading or unloading an adapter; `error` is for people, None when all went well."""

    ticket: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker serves: what the front must know about the model, and lines for people."""

    model_path: str
    max_model_len: int
    vocab_size: int
    kv_tokens: int
    kv_bytes: int
    eos_token_ids: frozenset[int] = frozenset()
    sampling_defaults: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker ends because of this."""

    message: str


Event = StepDone | Answer | Ready | Failed
