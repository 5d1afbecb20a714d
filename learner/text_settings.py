"""The settings of a training on texts: those that mean something there, and go together with its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from learner.constitution.named_judge import is_version
from service.adapters.base_model import check_model
from service.errors import BadInput, SettingsError
from service.settings import Settings, load_settings

Sections = Mapping[str, Mapping[str, Any]]

NOT_FROM_PYTHON: dict[str, tuple[str, ...]] = {
    "server": ("host", "port", "require_keys", "max_body_bytes", "pages", "allowed_origins"),
    "store": ("url",),
    "adapters": ("url",),
    "chat": ("temperature", "top_p", "max_tokens", "max_choices", "best_of"),
    "rollout": ("reconcile_seconds", "probe_tolerance", "allow_untold"),
    "engine": ("max_requests", "kind", "weights", "dtype", "kv_cache_gib", "gpu_memory_share", "max_num_seqs",
               "max_lora_rank", "threads", "vllm_python", "vllm_options"),
    "constitution": ("serve", "principles", "rounds", "budget_seconds", "evaluated_prompts"),
    "learner": ("method", "every_minutes", "after_feedback", "auto_promote", "max_attempts", "lease_seconds",
                "tick_seconds", "processes", "sharding", "niceness", "held_out_share", "max_per_person",
                "max_examples", "max_empty_share", "min_share_won"),
}  # fmt: skip
"""Those that nothing goes by where there is no service, no store, no gate and one process."""


def settings_on_texts(model: str | Path, given: Sections | None, home: Path) -> Settings:
    """`given`: by section, as in hone.toml. Raises SettingsError, and BadInput where there is no such model."""
    for name, section in (given or {}).items():
        if not isinstance(section, Mapping):
            raise SettingsError(
                f"Bad settings: {name!r} is no section.", f"They are by section, as in {{'learner': {{{name!r}: …}}}}."
            )
    sections = {name: dict(section) for name, section in (given or {}).items()}
    sections["engine"] = sections.get("engine", {}) | {"model": str(model)}
    chosen = load_settings(home, sections, environment={})
    _check_that_all_mean_something(chosen)
    check_model(chosen.model_path)
    _check_rank(chosen)
    return chosen


def check_versions(settings: Settings) -> None:
    """Raises BadInput where one is named that only a service would have."""
    if settings.learner.anchor not in ("base", "parent"):
        raise BadInput(
            f"There is no {settings.learner.anchor} here, which learner.anchor names: versions are a service's.",
            "Hand the adapter in as parent, and set learner.anchor to parent.",
        )
    if is_version(settings.constitution.judge):
        raise BadInput(
            f"There is no {settings.constitution.judge} here, which constitution.judge names: versions are a "
            "service's.",
            "Set it to self, or to the address of an endpoint.",
        )


def check_engine_is_named(settings: Settings) -> None:
    """For what samples as it learns. Raises SettingsError where an engine is to do it, and none is named."""
    if settings.learner.rollouts == "engine" and not (settings.learner.rollout_urls or settings.engine.urls):
        raise SettingsError(
            'Bad settings: learner.rollouts is "engine", and no engine is named.',
            'Name it with learner.rollout_urls, such as ["http://127.0.0.1:8001"], or set learner.rollouts = '
            '"trainer".',
        )


def _check_that_all_mean_something(chosen: Settings) -> None:
    useless = [
        f"{section}.{name}"
        for section, names in NOT_FROM_PYTHON.items()
        for name in names
        if getattr(getattr(chosen, section), name) != getattr(Settings.model_fields[section].default, name)
    ]
    if useless:
        raise SettingsError(
            f"Bad settings: {', '.join(useless)}: nothing goes by {'that' if len(useless) == 1 else 'them'} from "
            "Python, where one process trains and no service, store or gate is.",
            f"Leave {'it' if len(useless) == 1 else 'them'} out; what `hone learn` trains goes by all settings.",
        )


def _check_rank(chosen: Settings) -> None:
    width = getattr(AutoConfig.from_pretrained(chosen.model_path), "hidden_size", None)
    if isinstance(width, int) and chosen.learner.rank > width:
        raise SettingsError(
            f"Bad settings: learner.rank is {chosen.learner.rank}, and the model is {width} wide (hidden_size).",
            f"An update's rank is {width} at most; 8 to 64 is usual.",
        )
