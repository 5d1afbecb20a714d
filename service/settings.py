"""Every setting, typed, frozen and explained: read from `hone.toml`, then the environment, then flags.

`hone.toml` in the home folder holds tables named as the fields of `Settings` (`[server]`, `[learner]`, …); the
environment overrides it (`HONE_SERVER__PORT=8001`), flags override both. An unknown key is an error, because a
misspelt setting that is silently ignored is worse than none. `docs/settings.md` is written from this file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_origin
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from service.errors import SettingsError
from service.validation_messages import in_words

SPROUT = Path(__file__).resolve().parent / "sprout"
"""The built-in model's folder: what the model name `sprout` stands for."""

ENVIRONMENT_PREFIX = "HONE_"

MOST_TRAINING_THREADS = 4  # unless told: more of them wait for each other, and for chat


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    gpu_memory_share: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Share of the GPU's memory that vLLM takes for weights, adapters and KV cache. A learner on the "
        "same GPU has the rest; without one, 0.9 is usual.",
    )
    max_num_seqs: int = Field(64, gt=0, description="Most sequences that the engine decodes at once.")
    max_loras: int = Field(
        8, ge=3, description="Adapters that the engine holds at once. At least 3: old, new and canary."
    )
    max_lora_rank: int = Field(32, gt=0, description="Largest LoRA rank that the engine accepts.")
    threads: int = Field(
        0, ge=0, description="CPU threads of the embedded engine; 0: by cores and model size, one core left for HTTP."
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

    @field_validator("urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return _engines(urls)


def _engines(urls: tuple[str, ...]) -> tuple[str, ...]:
    """People know an engine's address with `/v1` or without. Raises ValueError."""
    plain = tuple(url.rstrip("/").removesuffix("/v1") for url in urls)
    for url in plain:
        if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
            raise ValueError(f"{url!r} is no address of an engine, such as http://127.0.0.1:8001")
    if twice := [url for url in plain if plain.count(url) > 1]:
        raise ValueError(f"{twice[0]} is named twice")
    return plain


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


Method = Literal["auto", "sft", "dpo", "kto", "ppo", "raft"]
"""What a run learns from, and how; "auto": by what there is."""

TrackerName = Literal["mlflow", "wandb"]


class LearnerSettings(Section):
    """When the learner runs, what it trains and how it may change what is live."""

    method: Method = Field(
        "auto", description="What a run trains for which nobody named a method; `auto`: whatever there is feedback for."
    )
    preferences: Literal["dpo", "ppo", "raft"] = Field(
        "dpo",
        description="How the method `auto` learns what people like. `dpo`, the quicker: from comparisons, or by KTO "
        "from thumbs where there are many more of them. `ppo`: a reward model of both, and of scores, and "
        "reinforcement learning. `raft`: the same model, and fine-tuning on the best of several replies.",
    )
    every_minutes: float = Field(
        0.0, ge=0, description="Start a run every so many minutes if there is new feedback; 0: never by time."
    )
    after_feedback: int = Field(
        50, ge=0, description="Start a run after so much new feedback that a method learns from; 0: never by count."
    )
    auto_promote: bool = Field(
        True, description="Promote a candidate that passed every gate; otherwise it waits for an operator."
    )
    max_attempts: int = Field(
        3, ge=1, description="How often a run is tried whose process dies, the first time included."
    )
    lease_seconds: float = Field(
        30.0, gt=0, description="A run whose learner has not been heard of for so long is taken over."
    )
    tick_seconds: float = Field(1.0, gt=0, description="How often the learner looks for work, in seconds.")
    threads: int = Field(
        0,
        ge=0,
        description="CPU threads of a training; 0: one for each core, 4 at most. Chat comes first by `niceness`.",
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes that share a training, each with the base model in its own memory and, on GPUs, a GPU "
        "of its own, so there must be as many; on a CPU they share `threads`, and gain little.",
    )
    niceness: int = Field(
        15, ge=0, le=19, description="How far a training steps back for other processes (POSIX niceness)."
    )
    held_out_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of conversations kept out of training, for evaluation. A larger one measures, for a while, "
        "on conversations that adapters before have learned from.",
    )
    max_per_person: int = Field(
        1000, ge=1, description="Most judgements of one person that a run learns from, newest first."
    )
    max_examples: int = Field(
        4000,
        ge=1,
        description="Most pairs, most corrections and most single thumbs in a run: the newest and a random draw of "
        "older ones.",
    )
    seed: int = Field(0, description="Seed of every random choice in a run.")
    quantise: Literal["none", "nf4"] = Field(
        "none",
        description="`nf4`: train against the base in 4 bits (QLoRA), which takes a quarter of the memory. The engine "
        "must then serve what `hone base dequantise` writes.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep of each layer only what goes in, and run it again for the backward pass: a fraction of the "
        "memory that a step takes, for about a third more time.",
    )
    rollouts: Literal["trainer", "engine"] = Field(
        "trainer",
        description="What samples the replies that `ppo` and `raft` learn from: the trainer itself, or the engine, "
        "into which the policy is loaded under a passing name for each round.",
    )
    rollout_urls: tuple[str, ...] = Field(
        (),
        description="URLs of the engines that sample for `learner.rollouts`, with the same base model; the first that "
        "is well is taken. None: those of `engine.urls`, or the one that `hone up` started.",
    )
    rollout_wait_seconds: float = Field(
        900.0,
        gt=0,
        description="Seconds that a training waits, at one stretch, for an engine that has gone away; then the attempt "
        "ends, and the run is tried again as if its process had died.",
    )
    rollout_tolerance: float = Field(
        0.2,
        gt=0,
        description="Largest mean gap between the log-probabilities of trainer and engine, in nats per token of what "
        "the engine sampled. Above it the engine answers with something else than the policy, and the run fails.",
    )
    rank: int = Field(16, ge=1, description="LoRA rank.")
    alpha: float = Field(32.0, gt=0, description="LoRA alpha: the update is scaled by alpha / rank.")
    sft_learning_rate: float = Field(
        1.5e-3, gt=0, description="Learning rate of supervised fine-tuning on corrections."
    )
    sft_epochs: int = Field(
        12, ge=1, description="Passes over the corrections until they are learned, at most; a few may take 240 steps."
    )
    dpo_learning_rate: float = Field(3e-3, gt=0, description="Learning rate of learning from comparisons.")
    dpo_epochs: int = Field(2, ge=1, description="Passes over the replies that are sampled, graded and learned from.")
    dpo_beta: float = Field(
        0.2, gt=0, description="DPO's β on people's own pairs: how strongly the policy is held to the anchor."
    )
    dpo_label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of people's comparisons that DPO takes to be mistaken."
    )
    dpo_robust: bool = Field(
        False,
        description="What DPO does about that share: robust DPO weighs pairs so that mistakes cancel out on average; "
        "otherwise (conservative DPO) it stops short of certainty.",
    )
    trackers: tuple[TrackerName, ...] = Field(
        (),
        description="Experiment trackers that hear every step's metrics beside the run's own files, if installed here: "
        "`mlflow`, `wandb`. Where they send them is set by their own variables, such as MLFLOW_TRACKING_URI.",
    )
    kto_learning_rate: float = Field(1e-3, gt=0, description="Learning rate of learning from single thumbs.")
    kto_epochs: int = Field(6, ge=1, description="Passes over the thumbs; up to 24 where there are few.")
    kto_beta: float = Field(
        0.5, gt=0, description="KTO's β: how soon a reply that gained, or lost, is taken to have done so enough."
    )
    reward_learning_rate: float = Field(1e-3, gt=0, description="Learning rate of fitting a reward model.")
    reward_epochs: int = Field(
        12,
        ge=1,
        description="Passes over the judgements that a reward model is fitted to, at most: it stops when what "
        "is kept apart is foretold no better.",
    )
    reward_label_smoothing: float = Field(
        0.05, ge=0, lt=0.5, description="Share of judgements that a reward model takes to be mistaken."
    )
    batch_size: int = Field(
        16, ge=1, description="Corrections, thumbs, and replies that are to stay, per optimizer step."
    )
    max_kl_per_token: float = Field(1.0, gt=0, description="Gate: largest KL to the anchor per token, in nats.")
    min_fluency: float = Field(
        -0.25,
        description="Gate: least fluency: log-probability per token of replies under the base, less that of its own.",
    )
    max_empty_share: float = Field(0.0, ge=0, le=1, description="Gate: largest share of empty replies.")
    min_share_won: float = Field(
        0.5, ge=0, le=1, description="Gate: least share of held-out comparisons won against the parent."
    )

    @field_validator("rollout_urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return _engines(urls)

    @property
    def training_threads(self) -> int:
        """CPU threads of each of a training's processes."""
        return max(1, (self.threads or min(available_cores(), MOST_TRAINING_THREADS)) // self.processes)


class PpoSettings(Section):
    """Reinforcement learning on a reward: the method `ppo`."""

    advantages: Literal["gae", "reinforce", "rloo", "grpo"] = Field(
        "gae",
        description="How a reply's reward becomes its tokens' advantages: by a value function (PPO), less the running "
        "mean (REINFORCE), less the mean of the other replies to its prompt (RLOO), or in their standard deviations "
        "(GRPO).",
    )
    iterations: int = Field(12, ge=1, description="How often replies are sampled and learned from.")
    prompts: int = Field(32, ge=1, description="Prompts in an iteration.")
    replies: int = Field(4, ge=1, description="Replies to each prompt; `rloo` and `grpo` need two.")
    epochs: int = Field(2, ge=1, description="Passes over the replies of an iteration.")
    minibatch: int = Field(32, ge=1, description="Replies in an optimizer step.")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of the policy.")
    value_learning_rate: float = Field(2e-3, gt=0, description="Learning rate of the value function.")
    kl_coefficient: float = Field(
        0.1, ge=0, description="β: what a nat of KL to the anchor costs, in units of the reward."
    )
    target_kl: float | None = Field(
        None, gt=0, description="KL to the anchor per reply, in nats, that β is adapted to; none: β is fixed."
    )
    kl_horizon: int = Field(1000, ge=1, description="Replies over which an adaptive β moves.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount of later rewards.")
    lam: float = Field(0.95, ge=0, le=1, description="λ of generalised advantage estimation.")
    clip: float = Field(0.2, gt=0, description="How far a step may move a token's probability: ratios of 1 ± so much.")
    importance_cap: float = Field(
        2.0,
        ge=1,
        description="Largest weight of a token that the engine sampled (`learner.rollouts`): how many times likelier "
        "the trainer finds it, up to so much.",
    )
    value_clip: float = Field(0.2, gt=0, description="How far a step may move a value.")
    entropy_coefficient: float = Field(0.0, ge=0, description="Weight of the entropy bonus.")
    normalise_rewards: bool = Field(True, description="Divide rewards by their running standard deviation.")
    clip_rewards: float | None = Field(5.0, gt=0, description="Largest reward either way, after that; none: any.")
    whiten_advantages: bool = Field(True, description="Give each iteration's advantages mean 0 and variance 1.")
    missing_eos_penalty: float = Field(
        1.0, ge=0, description="What a reply that was cut at the length limit loses, in units of the reward."
    )
    stop_kl: float = Field(
        0.1, gt=0, description="KL per token to the policy that sampled, from which an iteration's passes end early."
    )
    pretraining_coefficient: float = Field(
        0.2, ge=0, description="Weight of the likelihood of the base's own replies, mixed in at every step (PPO-ptx)."
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest reply that is sampled.")

    @model_validator(mode="after")
    def _compares_replies(self) -> PpoSettings:
        if self.advantages in ("rloo", "grpo") and self.replies < 2:
            raise ValueError(f"{self.advantages} compares replies to one prompt: replies must be at least 2")
        return self


class RaftSettings(Section):
    """Rejection-sampling fine-tuning on a reward: the method `raft`."""

    iterations: int = Field(5, ge=1, description="How often replies are sampled and the best learned.")
    prompts: int = Field(64, ge=1, description="Prompts in an iteration.")
    replies: int = Field(8, ge=2, description="Replies to each prompt, of which the best is learned.")
    epochs: int = Field(2, ge=1, description="Passes over the best replies so far, in each iteration.")
    minibatch: int = Field(16, ge=1, description="Replies in an optimizer step.")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of the policy.")
    kl_coefficient: float = Field(
        0.1,
        ge=0,
        description="β: what a nat of KL to the anchor costs in the choice of the best, in units of the reward.",
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest reply that is sampled.")


class Settings(Section):
    home: Path = Field(description="The folder that holds all state: store, adapters, runs, logs.")
    server: ServerSettings = ServerSettings()
    engine: EngineSettings = EngineSettings()
    store: StoreSettings = StoreSettings()
    adapters: AdaptersSettings = AdaptersSettings()
    chat: ChatSettings = ChatSettings()
    rollout: RolloutSettings = RolloutSettings()
    learner: LearnerSettings = LearnerSettings()
    ppo: PpoSettings = PpoSettings()
    raft: RaftSettings = RaftSettings()

    @property
    def store_url(self) -> str:
        return self.store.url or f"sqlite:///{quote(str(self.home / 'hone.db'))}"

    @property
    def store_is_made(self) -> bool:
        """False before the first start in this home. A database elsewhere counts as made: opening it tells."""
        return self.store.url is not None or (self.home / "hone.db").exists()

    @property
    def adapters_folder(self) -> Path:
        return self.home / "adapters"

    @property
    def runs_folder(self) -> Path:
        return self.home / "runs"

    @property
    def model_path(self) -> str:
        """What to hand to a loader: the built-in model's folder, a folder, or a hub name."""
        return str(SPROUT) if self.engine.model == "sprout" else self.engine.model


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_home(environment: Mapping[str, str] = os.environ) -> Path:
    return Path(environment.get("HONE_HOME") or Path.home() / ".hone").expanduser().resolve()


def load_settings(
    home: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Read the settings: defaults < `home/hone.toml` < environment < `overrides` ({section: {key: value}}).

    Raises SettingsError, naming the key and the place it came from.
    """
    home = (home or default_home(environment)).expanduser().resolve()
    tables: dict[str, dict[str, Any]] = {}
    for source in (_from_file(home / "hone.toml"), _from_environment(environment), overrides or {}):
        for section, values in source.items():
            what = f"There is no section {section!r}" if isinstance(values, Mapping) else f"{section!r} is no section"
            if section not in _SECTIONS or not isinstance(values, Mapping):
                raise SettingsError(f"Bad settings: {what}.", f"The sections are {', '.join(_SECTIONS)}.")
            tables.setdefault(section, {}).update(_engine(values) if section == "engine" else values)
    try:
        return Settings(home=home, **tables)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {in_words(e)}" for e in error.errors())
        raise SettingsError(f"Bad settings: {problems}.", "See docs/settings.md.") from error


def check_rank(settings: Settings) -> None:
    """For who is about to learn. Raises SettingsError when the engine, by the settings, would take nothing of it."""
    engine, rank = settings.engine, settings.learner.rank
    if rank > engine.max_lora_rank:
        elsewhere = ", if the engines were started with as much (vLLM: --max-lora-rank)" if engine.urls else ""
        raise SettingsError(
            f"Bad settings: learner.rank is {rank}, above engine.max_lora_rank ({engine.max_lora_rank}), the largest "
            "that the engine takes.",
            f"Lower learner.rank, or set engine.max_lora_rank = {rank}{elsewhere}.",
        )


def check_rollouts(settings: Settings) -> None:
    """For who is about to learn. Raises SettingsError when the engine would have no slot for the policy by the side of
    what serves chats: live, canary and those kept for a rollback."""
    needed = settings.rollout.keep_loaded + 3
    shared = settings.learner.rollouts == "engine" and not settings.learner.rollout_urls
    if shared and settings.engine.max_loras < needed:
        raise SettingsError(
            f'Bad settings: with learner.rollouts = "engine", engine.max_loras must be at least {needed} '
            f"(rollout.keep_loaded, live, canary and the policy in training), not {settings.engine.max_loras}.",
            f"Set engine.max_loras = {needed}, lower rollout.keep_loaded, or name engines of their own with "
            "learner.rollout_urls.",
        )


def with_rollout_engines(settings: Settings, running: tuple[str, ...] = ()) -> Settings:
    """The settings with the engines named that sample for a training, if any do. `running`: those of a `hone up` over
    this home. Raises SettingsError when none is known."""
    if settings.learner.rollouts != "engine" or settings.learner.rollout_urls:
        return settings
    urls = settings.engine.urls or running
    if not urls:
        raise SettingsError(
            'Bad settings: learner.rollouts is "engine", and no engine is known.',
            "Start `hone up` first, name the engine with engine.urls or learner.rollout_urls, or set "
            'learner.rollouts = "trainer".',
        )
    return settings.model_copy(update={"learner": settings.learner.model_copy(update={"rollout_urls": urls})})


def _engine(values: Mapping[str, Any]) -> dict[str, Any]:
    """`engine.url`, one or several, is `engine.urls`: put right source by source, so that the later source wins."""
    if "url" in values and "urls" in values:
        raise SettingsError("Bad settings: engine.url and engine.urls are the same.", "Name the engines once.")
    renamed = {"urls" if key == "url" else key: value for key, value in values.items()}
    if isinstance(renamed.get("urls"), str):
        renamed["urls"] = (renamed["urls"],)
    return renamed


_SECTIONS = tuple(name for name in Settings.model_fields if name != "home")
_LISTS = {("engine", "url")} | {
    (section, name)
    for section in _SECTIONS
    for name, field in cast(type[Section], Settings.model_fields[section].annotation).model_fields.items()
    if get_origin(field.annotation) is tuple
}
"""What the environment has in one line, with commas."""


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}  # a home that can't be made is reported by whoever has to write there
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"Can't read {path}: {error}.") from error


def _listed(value: str) -> list[str]:
    return [one for one in value.split(",") if one]


def _from_environment(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """`HONE_SERVER__PORT=8001` → {"server": {"port": "8001"}}; pydantic turns the text into the field's type."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in environment.items():
        section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if name.startswith(ENVIRONMENT_PREFIX) and separator:
            found.setdefault(section, {})[key] = _listed(value) if (section, key) in _LISTS else value
    return found
