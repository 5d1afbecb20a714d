"""What a stage left out, or cut on the left, because it doesn't fit, in words."""

from __future__ import annotations

from collections.abc import Mapping

from learner.counted import counted

LEFT_OUT = {
    "prompts_too_long": ("prompt", "prompts", "without room for a reply"),
    "left_out": ("prompt", "prompts", "over which engines went away"),
    "ungraded": ("reply", "replies", "without a finite reward"),
}
"""Among a stage's metrics: what each counts."""
CUT = "prompts_cut"
"""Another: prompts of which the end alone was read."""


def omissions_in_words(too_long: int, metrics: Mapping[str, float]) -> str:
    """The rest of a sentence about a stage; empty where all was used, and whole.

    `too_long`: examples longer than the model's context; `metrics`: the stage's, with counts by the names above.
    """
    counts = [(too_long, "example", "examples", "longer than the model's context")]
    counts += [(int(metrics.get(name, 0)), *words) for name, words in LEFT_OUT.items()]
    named = [f"{counted(count, one, more)} {why}" for count, one, more, why in counts if count]
    said = [f"left out {' and '.join(named)}"] if named else []
    if cut := int(metrics.get(CUT, 0)):
        said.append(f"cut {counted(cut, 'prompt')} on the left to fit the model's context")
    return " and ".join(said)
