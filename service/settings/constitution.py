"""The settings of the constitution: while serving, and what a run learns by it."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from service.settings.addresses import without_credentials
from service.settings.section import Section

SELF = "self"
"""The judge that is the base model itself."""


def _known_judge(judge: str) -> str:
    """Raises ValueError for what names no judge."""
    if judge == SELF or re.fullmatch("v[1-9][0-9]{0,8}", judge):
        return judge
    try:
        parts = urlsplit(judge)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_address = is_address and "@" not in parts.path + parts.query + parts.fragment  # the end of a password, then
    except ValueError:  # a port that is no number, or too large
        is_address = False
    if not is_address:
        secret = " (in its user and password write %2F for /, %3F for ? and %23 for #)" if "@" in judge else ""
        raise ValueError(
            f"{without_credentials(judge)!r} is no judge: self, a version such as v3, or an address such as "
            f"http://127.0.0.1:9000/v1{secret}"
        )
    return judge


class ConstitutionSettings(Section):
    """Which principles are used, when replies are revised by them, and how a run learns from what they say."""

    serve: Literal["never", "asked", "always"] = Field(
        "asked",
        description="Which chats are answered by draft, critique and revision: none, those that ask for it, or all.",
    )
    tags: tuple[str, ...] = Field(
        ("harmless",), description="Only principles with one of these tags are used; none named: all."
    )
    principles: Literal["sampled", "all"] = Field(
        "sampled", description="A round criticises a served reply under one principle, drawn by weight, or under all."
    )
    rounds: int = Field(1, ge=1, le=8, description="Most critiques and revisions of a served reply.")
    budget_seconds: float = Field(
        20.0, gt=0, description="When a served reply has taken so long, the last whole text is answered as it is."
    )
    critique_tokens: int = Field(
        160,
        ge=1,
        description="Most tokens of a critique, while serving and in a run; a longer one is cut there.",
    )
    evaluated_prompts: int = Field(
        48,
        ge=3,
        description="Held-out prompts of each kind (red-team, look-alikes, everyday) that a candidate is measured on "
        "by the constitution; a sixth of them where people's feedback alone made it.",
    )
    red_team_prompts: int = Field(
        512, ge=1, description="Prompts that a run asks to find harmful replies: flagged ones first, then ours."
    )
    written_prompts: int = Field(
        32, ge=0, description="More of them, that the model itself is asked to write after those."
    )
    reply_tokens: int = Field(
        160,
        ge=1,
        description="Most tokens of a reply that a run samples to learn from; one that is cut there is left out.",
    )
    samples_per_prompt: int = Field(
        4, ge=1, le=64, description="Replies to each that are revised in the supervised stage."
    )
    pairs_per_prompt: int = Field(
        2,
        ge=1,
        le=64,
        description="Pairs of replies to each that are judged in the AI-feedback stage, each in both orders under "
        "`constitution.judge_principles` principles.",
    )
    revision_rounds: int = Field(2, ge=1, le=8, description="Critiques and revisions of each in the supervised stage.")
    helpful_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of replies to harmless prompts, kept as they are, beside all replies to red-team prompts "
        "that were examined (pairs that were judged), of which fewer are learned; 32 such prompts at least, also at 0.",
    )
    judge: Annotated[str, AfterValidator(_known_judge)] = Field(
        SELF,
        description="Who judges in the AI-feedback stage: `self` (the base model), a version such as `v3`, or the "
        "address of an OpenAI-compatible endpoint.",
    )
    judge_model: str = Field("", description="The model to name at that endpoint.")
    judge_key_variable: str = Field(
        "JUDGE_API_KEY", description="The environment variable that holds that endpoint's API key."
    )
    judge_timeout_seconds: float = Field(60.0, gt=0, description="How long a verdict may take.")
    judge_retries: int = Field(2, ge=0, description="How often a verdict that failed or made no sense is asked again.")
    judge_failed_share: float = Field(
        0.2, ge=0, le=1, description="A run stops when so large a share of the verdicts came to nothing."
    )
    judge_principles: int = Field(3, ge=1, description="Principles whose verdicts on a pair are averaged.")
    judge_reasoned: bool = Field(
        False, description="Ask for thoughts before a verdict; its odds are then clamped to 40 to 60 %."
    )
    human_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of people's own comparisons in what the AI-feedback stage learns from; with a reward model "
        "their thumbs, labels of harm and scores are part of it.",
    )
