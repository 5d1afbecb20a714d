"""Every setting, typed, frozen and explained: read from `hone.toml`, then the environment, then flags.

`hone.toml` in the home folder holds tables named as the fields of `Settings` (`[server]`, `[learner]`, …); the
environment overrides it (`HONE_SERVER__PORT=8001`), flags override both. An unknown key is an error, because a
misspelt setting that is silently ignored is worse than none; so is a variable `HONE_…` that says no setting.
`docs/settings.md` is written from this package.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, cast, get_origin
from urllib.parse import quote

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from service.errors import SettingsError
from service.settings.constitution import ConstitutionSettings
from service.settings.learning import LearnerSettings, Method, TrackerName, available_cores
from service.settings.reinforcement import BY_ADVANTAGES, PpoSettings, RaftSettings
from service.settings.section import Section
from service.settings.serving import (
    AdaptersSettings,
    ChatSettings,
    EngineSettings,
    RolloutSettings,
    ServerSettings,
    StoreSettings,
)
from service.validation_messages import in_words

__all__ = [
    "BY_ADVANTAGES", "ENVIRONMENT_PREFIX", "SPROUT", "AdaptersSettings", "ChatSettings", "ConstitutionSettings",
    "EngineSettings",
    "LearnerSettings", "Method", "PpoSettings", "RaftSettings", "RolloutSettings", "ServerSettings", "Settings",
    "StoreSettings", "TrackerName", "available_cores", "check_rank", "check_rollouts", "default_home", "fewest_slots",
    "load_settings", "with_rollout_engines",
]  # fmt: skip

SPROUT = Path(__file__).resolve().parents[1] / "sprout"
"""The built-in model's folder: what the model name `sprout` stands for."""

ENVIRONMENT_PREFIX = "HONE_"
HOME_VARIABLE = f"{ENVIRONMENT_PREFIX}HOME"
LIKE_ENOUGH = 0.6
"""Share of characters in common (difflib's own default) from which a name may be a misspelt other one."""


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
    constitution: ConstitutionSettings = ConstitutionSettings()

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
    def anchor_folder(self) -> Path:
        """The anchor's log-probabilities, which runs over one snapshot share."""
        return self.home / "anchor"

    @property
    def model_path(self) -> str:
        """What to hand to a loader: the built-in model's folder, a folder, or a hub name."""
        return str(SPROUT) if self.engine.model == "sprout" else self.engine.model

    def ppo_of(self, method: str) -> PpoSettings | None:
        """What a run of this method that learns by `ppo` goes by; None: it doesn't."""
        if method in BY_ADVANTAGES:
            return self.ppo.model_copy(update={"advantages": method})
        chosen = self.learner.preferences if method in ("auto", "rl-cai") else method
        return self.ppo if chosen == "ppo" else None


def default_home(environment: Mapping[str, str] = os.environ) -> Path:
    return Path(environment.get(HOME_VARIABLE) or Path.home() / ".hone").expanduser().resolve()


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
        settings = Settings(home=home, **tables)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {in_words(e)}" for e in error.errors())
        raise SettingsError(f"Bad settings: {problems}.", "See docs/settings.md.") from error
    ppo = settings.ppo_of(settings.learner.method)
    if ppo is not None and ppo.unsuitable:
        raise SettingsError(f"Bad settings: ppo: {ppo.unsuitable}.", "See docs/settings.md.")
    return settings


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
    needed = fewest_slots(settings)
    if settings.engine.max_loras < needed:
        raise SettingsError(
            f'Bad settings: with learner.rollouts = "engine", engine.max_loras must be at least {needed} '
            f"(rollout.keep_loaded, live, canary and the policy in training), not {settings.engine.max_loras}.",
            f"Set engine.max_loras = {needed}, lower rollout.keep_loaded, or name engines of their own with "
            "learner.rollout_urls.",
        )


def fewest_slots(settings: Settings) -> int:
    """Adapters that the engine has to hold at once: old, new and canary. Where it samples for the learner, too: live,
    canary, those kept for a rollback, and the policy in training."""
    shared = settings.learner.rollouts == "engine" and not settings.learner.rollout_urls
    return settings.rollout.keep_loaded + 3 if shared else 3


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


def _fields(section: str) -> dict[str, FieldInfo]:
    return cast(type[Section], Settings.model_fields[section].annotation).model_fields


_SECTIONS = tuple(name for name in Settings.model_fields if name != "home")
_LISTS = {("engine", "url")} | {
    (section, name)
    for section in _SECTIONS
    for name, field in _fields(section).items()
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
    """`HONE_SERVER__PORT=8001` → {"server": {"port": "8001"}}; pydantic turns the text into the field's type.

    Raises SettingsError for a variable that is ours by its name and says no setting.
    """
    found: dict[str, dict[str, Any]] = {}
    others = tuple(_of_linked_services(environment))
    for name, value in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name == HOME_VARIABLE or name.startswith(others):
            continue
        section, separator, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if not separator:
            raise SettingsError(
                f"Bad settings: the environment variable {name} says no setting.",
                f"{_nearest(name)}Name it right, or unset it; docs/settings.md has all settings.",
            )
        found.setdefault(section, {})[key] = _listed(value) if (section, key) in _LISTS else value
    return found


def _of_linked_services(environment: Mapping[str, str]) -> Iterator[str]:
    """How the variables begin that Kubernetes sets in every pod for a service whose name begins with `hone`."""
    for name, value in environment.items():
        if name.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", value):
            yield from (name, f"{name.removesuffix('_PORT')}_SERVICE_")


def _nearest(name: str) -> str:
    """In words, the variable that was meant: the one most like it as a whole, or by the setting's own name."""

    def likeness(variable: str) -> float:
        told, setting = name.removeprefix(ENVIRONMENT_PREFIX), variable.removeprefix(ENVIRONMENT_PREFIX)
        return max(SequenceMatcher(None, told, part).ratio() for part in (setting, setting.partition("__")[2]))

    settings = (f"{section}__{key}".upper() for section in _SECTIONS for key in _fields(section))
    nearest = max((HOME_VARIABLE, *(f"{ENVIRONMENT_PREFIX}{setting}" for setting in settings)), key=likeness)
    return f"Did you mean {nearest}? " if likeness(nearest) >= LIKE_ENOUGH else ""
