"""Whether a base model is there, as a folder or at the hub; and at once what is wrong where it is neither.

Without this a mistyped folder is asked of the hub again and again, and the answer is about the hub.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from service.adapters.fingerprint import model_folder
from service.errors import BadInput
from service.settings.model_name import ADVICE, may_be_of_the_hub

HUB_SECONDS = 10.0


def check_model(model: str) -> None:
    """See whether a model can be loaded from this name, before anything waits for it.

    Raises BadInput where it names no folder with a model, and no model that the hub's cache or the hub has.
    """
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise BadInput(f"{model} is no model folder: it has no config.json.", ADVICE)
    elif not may_be_of_the_hub(model):
        raise BadInput(f"There is no model folder {model}.", ADVICE)
    else:
        with suppress(BadInput):
            model_folder(model)
            return
        _ask_the_hub(model)


def _ask_the_hub(model: str) -> None:
    """Once, where loading would ask again and again."""
    from huggingface_hub import HfApi  # only for hub names: it takes its time to import

    try:
        HfApi().model_info(model, timeout=HUB_SECONDS)
    except Exception as error:  # the hub raises a dozen unrelated classes; all mean that there is no model
        said = str(error).strip().partition("\n")[0].rstrip(". ")
        raise BadInput(
            f"{model!r} is neither a folder here nor a model that the hub gave us ({said}).", ADVICE
        ) from error
