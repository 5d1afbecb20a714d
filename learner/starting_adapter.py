"""The adapter that a training starts from: whether it is of this base, and which settings it overrides.

A published one says its base in its manifest. Beside one that was trained without a service lies `base.json`:

    write_base(folder, "service/sprout")
    check_base(folder, "service/sprout")  # raises BadInput for another base
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel, ValidationError

from service.adapters.fingerprint import fingerprint_if_known
from service.adapters.manifest import MANIFEST, BaseModelIdentity
from service.errors import AdapterBroken, BadInput
from service.settings import LearnerSettings

log = logging.getLogger("hone.learner")

BASE_FILE = "base.json"
SHOWN_DIGITS = 12
"""Of a fingerprint."""


class _OfBase(BaseModel):
    """What of a manifest says its base."""

    base: BaseModelIdentity


def write_base(folder: Path, model: str, learner: LearnerSettings) -> None:
    """Say in an adapter's folder which base it was trained on; nothing where that has no fingerprint, as when its
    weights aren't in safetensors. Raises OSError."""
    if (sha256 := fingerprint_if_known(model)) is None:
        return
    identity = BaseModelIdentity(name=model, sha256=sha256, quantisation="nf4" if learner.quantise == "nf4" else None)
    (folder / BASE_FILE).write_text(identity.model_dump_json(indent=1) + "\n", encoding="utf-8")


def check_base(folder: Path, model: str | Path) -> None:
    """Whether an adapter is of this base, where its folder says of which it is; else the log says that nobody knows.
    Raises BadInput where it is of another one, AdapterBroken where that can't be read."""
    base = base_of(folder)
    if base is None:
        log.warning("%s", of_no_known_base(folder, model))
        return
    sha256 = fingerprint_if_known(model) or "unknown"
    if sha256 != base.sha256:
        raise BadInput(
            f"{folder} was made for another base model ({base.name}, fingerprint {base.sha256[:SHOWN_DIGITS]}) than "
            f"{model} (fingerprint {sha256[:SHOWN_DIGITS]}).",
            "Training starts from an adapter of its own base, or from the base.",
        )


def of_no_known_base(folder: Path, model: str | Path) -> str:
    """What is to be said of an adapter whose folder doesn't say its base; empty where it does. Raises as `base_of`."""
    if base_of(folder) is not None:
        return ""
    return (
        f"{folder} doesn't say which base it was trained on (no {MANIFEST}, no {BASE_FILE}), so nobody knows whether "
        f"it was {model}."
    )


def base_of(folder: Path) -> BaseModelIdentity | None:
    """Of an adapter, None where its folder doesn't say it. Raises AdapterBroken where that can't be read."""
    for file in (folder / MANIFEST, folder / BASE_FILE):
        if not file.is_file():
            continue
        try:
            text = file.read_bytes()
            if file.name == MANIFEST:
                return _OfBase.model_validate_json(text).base
            return BaseModelIdentity.model_validate_json(text)
        except (OSError, ValidationError) as error:
            raise AdapterBroken(f"{file} can't be read: {error}.") from error
    return None


def kept_shape(name: str, rank: int, alpha: float, learner: LearnerSettings) -> str:
    """What is to be said of an adapter whose rank or alpha isn't that of the settings; empty where both are."""
    given = {"rank": (rank, learner.rank), "alpha": (alpha, learner.alpha)}
    kept = {what: value for what, (value, wanted) in given.items() if value != wanted}
    if not kept:
        return ""
    values = " and ".join(f"{what} {value:g}" for what, value in kept.items())
    names = " and ".join(f"learner.{what}" for what in kept)
    return f"It keeps the {values} of {name}; {names} {'are' if len(kept) > 1 else 'is'} for what starts from the base."
