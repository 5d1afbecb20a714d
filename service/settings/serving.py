"""The settings of what serves: server, engine, store, adapters, chat, rollout."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from service.settings.addresses import engine_addresses
from service.settings.model_name import ADVICE, NOT_NAMED
from service.settings.section import Section


class ServerSettings(Section):
    """Where the service listens."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on. Any address but loopback needs keys (`hone keys create`)."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port of the API and the pages.")
    require_keys: bool = Field(
        False, description="Ask for keys on loopback, too; for a proxy on the same machine (docs/operating.md)."
    )
    max_body_bytes: int = Field(1_000_000, gt=0, description="Largest request body, in bytes; a larger one gets 413.")
    pages: bool = Field(True, description="Mount the Gradio pages in the service.")
    allowed_origins: tuple[str, ...] = Field(
        (), description="Origins of other sites whose pages may call the API (CORS)."
    )

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """As browsers send them, so that all who compare find the same."""
        return tuple(_origin(named) for named in map(str.strip, origins) if named)

    @property
    def local_url(self) -> str:
        """Where this machine reaches the service: an address for all interfaces is no address to call."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def _origin(named: str) -> str:
    """As browsers send it (RFC 6454, section 6.2). Raises ValueError."""
    if "*" in named:
        raise ValueError("* would let every site's pages in; name each site, such as https://chat.example")
    parts = urlsplit(named)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"{named!r} is no origin: name scheme and host, such as https://chat.example")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, usual) else "")


class EngineSettings(Section):
    """The engine that computes replies, and the base model it serves."""

    urls: tuple[str, ...] = Field(
        (),
        description="URLs of engines that run elsewhere, with the same base model; `engine.url` is another name. "
        "None: `hone up` starts one of its own.",
    )
    max_requests: int = Field(
        256,
        gt=0,
        description="Most requests of a service under way at one engine; when all are full, one more gets 429.",
    )
    kind: Literal["embedded", "vllm"] = Field(
        "embedded", description="The engine that `hone up` starts: the embedded one, or vLLM."
    )
    model: str = Field("sprout", description="Base model: `sprout` (built in), a folder, or a hub name.")
    weights: str | None = Field(
        None,
        description="Folder of the weights that an engine of `hone up` serves in the model's stead: what "
        "`hone base dequantise` wrote of it, where learner.quantise is `nf4`. None: the model's own.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the weights in the engine that `hone up` starts."
    )
    max_model_len: int | None = Field(
        None, gt=0, description="Longest prompt and reply together, in tokens. None: as much as the model was made for."
    )
    kv_cache_gib: float = Field(
        0.5,
        gt=0,
        description="Memory for the KV cache, in GiB, of an engine on the CPU; when full, requests wait.",
    )
    gpu_memory_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the GPU's memory that vLLM takes for weights, adapters and KV cache; a learner on the "
        "same GPU has the rest. None: `hone up` works it out from model and card (docs/sizes.md), where it knows them; "
        "else 0.6.",
    )
    max_num_seqs: int = Field(64, gt=0, description="Most sequences that the engine decodes at once.")
    max_loras: int = Field(
        8, ge=3, description="Adapters that the engine holds at once. At least 3: old, new and canary."
    )
    max_lora_rank: int = Field(32, gt=0, description="Largest LoRA rank that the engine accepts.")
    threads: int = Field(
        0,
        ge=0,
        description="CPU threads of the embedded engine. 0: for a small model on the CPU, which is compiled, one for "
        "each core and 4 at most; for others by the model's size, with one core left for HTTP.",
    )
    vllm_python: str | None = Field(
        None,
        description="Python interpreter that has vLLM. None: that of `hone` if vLLM is installed there, else "
        "`.venv-vllm/bin/python` beside the project.",
    )
    vllm_options: str = Field(
        "",
        description="Further options of vLLM's server, as on a command line: `--tensor-parallel-size 2`, "
        "`--enforce-eager`.",
    )
    timeout_seconds: float = Field(
        120.0, gt=0, description="Seconds that an engine has to load an adapter or to score a reply."
    )
    silence_seconds: float = Field(
        15.0,
        gt=0,
        description="Seconds of silence in a reply after which its engine is asked whether it is well; if not, a reply "
        "that has not begun is asked of another engine, and one that has ends with an error.",
    )

    @field_validator("model")
    @classmethod
    def _is_named(cls, model: str) -> str:
        if not model.strip():
            raise ValueError(f"{NOT_NAMED} {ADVICE}".rstrip("."))
        return model

    @field_validator("urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return engine_addresses(urls)


class StoreSettings(Section):
    """Where exchanges, feedback, adapters' states and runs are kept."""

    url: str | None = Field(
        None, description="SQLAlchemy URL. None: SQLite in the home folder. PostgreSQL: `postgresql+psycopg://…`."
    )


class AdaptersSettings(Section):
    """Where adapters are shared between homes that use one store."""

    url: str | None = Field(
        None,
        description="A folder by URL that every adapter is published to, and from which each home fetches what it "
        "lacks: `file:///srv/adapters`, `s3://bucket/adapters`, `gs://…`. None: adapters stay in the home folder.",
    )

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        if url is not None and "://" not in url:
            raise ValueError(f"{url!r} is no URL, such as s3://bucket/adapters or file:///srv/adapters")
        return url


class ChatSettings(Section):
    """How replies are sampled where the request does not say."""

    temperature: float = Field(0.7, ge=0, le=2, description="Sampling temperature of a request that names none.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus of a request that names none.")
    max_tokens: int = Field(256, gt=0, description="Most new tokens of a request that names none.")
    max_choices: int = Field(8, gt=0, description="Largest `n`, and `best_of`, of a request.")
    best_of: int = Field(
        1,
        ge=1,
        description="Replies sampled for a request of one reply that names no `best_of`: the one is answered that "
        "people would like best, as their comparisons tell. At most `chat.max_choices`; 1: no choice.",
    )

    @model_validator(mode="after")
    def _may_choose_so_many(self) -> ChatSettings:
        if self.best_of > self.max_choices:
            raise ValueError(f"best_of is {self.best_of}, above max_choices ({self.max_choices})")
        return self


class RolloutSettings(Section):
    """How an adapter goes live."""

    reconcile_seconds: float = Field(
        0.5, gt=0, description="Pause between two comparisons of desired and real state, in seconds."
    )
    keep_loaded: int = Field(2, ge=1, description="Retired adapters kept loaded in the engine for an instant rollback.")
    probe_tolerance: float = Field(
        0.05,
        gt=0,
        description="Largest mean gap between trainer's and engine's log-probabilities of a probe, in nats per token.",
    )
    allow_untold: bool = Field(
        False,
        description="Whether an adapter may go live that changes too little for its probes to tell it from the base, "
        "or from what is live.",
    )
