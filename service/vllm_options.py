"""What stands on a command line of vLLM's server, and what of `engine.vllm_options` Hone can't work with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from itertools import pairwise

from service.errors import SettingsError

LOGPROBS_MODE = "raw_logprobs"
"""Of the modes of vLLM the one that gives the model's own log-probabilities, whatever temperature and top_p are."""
FEWEST_SLOTS = 3
"""Old, new and canary: with fewer, the old and the new adapter push each other out during a swap."""

_TAKEN = {
    "port": "Hone chooses the engine's port",
    "host": "Hone looks for its engine on loopback",
    "uds": "Hone looks for its engine on a port",
    "api-key": "Hone sends its engine no key",
    "ssl-keyfile": "Hone talks to its engine over plain HTTP",
    "ssl-certfile": "Hone talks to its engine over plain HTTP",
}
"""Options that would leave Hone waiting for an engine that it doesn't find, and why."""

_OVERRIDE = "override-generation-config"


def split_options(text: str) -> list[str]:
    """The words of `engine.vllm_options`. Raises SettingsError for an open quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingsError(f"engine.vllm_options can't be read: {error}.", "Close the quote.") from error


def option_value(words: Sequence[str], *names: str) -> str | None:
    """What an option was given, the last time it was; None where it wasn't. Names are said with dashes."""
    found = None
    for word, after in pairwise([*words, ""]):
        option, is_assigned, value = word.partition("=")
        if option.startswith("-") and option.lstrip("-").replace("_", "-") in names:
            found = value if is_assigned else after
    return found


def option_number(words: Sequence[str], *names: str) -> int | None:
    """The same, where it is a whole number."""
    value = option_value(words, *names)
    return int(value) if value is not None and value.isdecimal() else None


def check_options(words: Sequence[str]) -> None:
    """`words`: those of `engine.vllm_options`, which come after Hone's own and so win.

    Raises SettingsError for one that takes away what Hone depends on.
    """
    mode, slots = option_value(words, "logprobs-mode"), option_number(words, "max-loras")
    if mode not in (None, LOGPROBS_MODE):
        raise _refused(
            f"--logprobs-mode {mode}", f"Hone keeps and learns from the model's own log-probabilities ({LOGPROBS_MODE})"
        )
    if option_value(words, "no-enable-lora") is not None:
        raise _refused("--no-enable-lora", "without LoRA no adapter is served")
    if slots is not None and slots < FEWEST_SLOTS:
        raise _refused(
            f"--max-loras {slots}", f"a swap needs {FEWEST_SLOTS} slots; engine.max_loras says how many there are"
        )
    if _cuts_replies(words):
        raise _refused(
            f"--{_OVERRIDE} without max_new_tokens",
            "it replaces Hone's own, and replies would end at the length in the model's generation_config.json",
            'Add "max_new_tokens": null to it.',
        )
    for name, why in _TAKEN.items():
        if option_value(words, name) is not None:
            raise _refused(f"--{name}", why)


def _cuts_replies(words: Sequence[str]) -> bool:
    """Whether an override of the generation config leaves a length in it. One that is said key by key
    (`--override-generation-config.temperature 0.5`) replaces one in JSON, too."""
    if any(word.lstrip("-").replace("_", "-").startswith(f"{_OVERRIDE}.") for word in words):
        return option_value(words, f"{_OVERRIDE}.max-new-tokens") != "null"
    if (text := option_value(words, _OVERRIDE)) is None:
        return False
    try:
        override = json.loads(text)
    except ValueError:
        return True
    return not isinstance(override, dict) or override.get("max_new_tokens", "absent") is not None


def _refused(option: str, why: str, mend: str = "Take it out.") -> SettingsError:
    return SettingsError(f"engine.vllm_options sets {option}: {why}.", mend)
