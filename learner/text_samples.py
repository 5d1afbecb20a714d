"""What a trained policy says, beside what the base does: a few replies to read."""

from __future__ import annotations

from collections.abc import Sequence

from learner.backbone import Backbone
from learner.batch import TokenIds
from learner.evaluate.answers import MAX_NEW_TOKENS, answer, spread
from learner.sampling import longest_prompt

SAMPLES = 12


def samples_of(backbone: Backbone, prompts: Sequence[TokenIds]) -> list[dict[str, str]]:
    """Of a few of the prompts each with the likeliest reply of the policy and of the base."""
    room = longest_prompt(backbone, MAX_NEW_TOKENS)
    chosen = spread([prompt for prompt in dict.fromkeys(prompts) if len(prompt) <= room], SAMPLES)
    policy, base = (answer(backbone, chosen, role, seed=0, per_prompt=1).texts for role in ("policy", "base"))
    texts = backbone.decode(chosen)
    return [
        {"prompt": prompt, "reply": reply, "reply_base": reply_base}
        for prompt, (reply,), (reply_base,) in zip(texts, policy, base, strict=True)
    ]
