"""How long a reply by principles takes, beside a plain one to the same prompt, and when a person sees the first sign of
it: `hone up` with the built-in model, one chat at a time, on red-team prompts, where drafts are revised most often.

    python -m tests.bench constitution-serving --json
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from statistics import median

import httpx2

from learner.constitution.red_team import harmful
from learner.simulate.house import own_house
from tests.bench.harness import CannotMeasure, Comparison, benchmark

CHATS = 60
SEED = 71
WHOLE = "times a plain reply, where the draft was revised"
FIRST_SIGN = "seconds to the first sign, the longest"


@dataclass(frozen=True)
class Timed:
    """Seconds of one reply, from sending the chat on."""

    first_sign: float
    whole: float
    revised: bool


@benchmark(
    "constitution-serving",
    unit="seconds a reply",
    peer_name="a plain reply",
    higher_is_better=False,
    target=0.25,
    limits={WHOLE: 4, FIRST_SIGN: 0.5},
)
def constitution_serving() -> Comparison:
    prompts = harmful(CHATS + 1, SEED, held_out=True)
    with own_house() as house, httpx2.Client(base_url=house.url, timeout=60.0, trust_env=False) as http:
        for constitutional in (False, True):  # the first chat of all opens connections
            _chat(http, prompts[-1], constitutional)
        plain, principled = list[Timed](), list[Timed]()
        for number, prompt in enumerate(prompts[:CHATS]):  # whoever asks second finds the prompt computed: in turns
            for constitutional in (False, True) if number % 2 else (True, False):
                (principled if constitutional else plain).append(_chat(http, prompt, constitutional))
    revised = [one.whole for one in principled if one.revised]
    if not revised:
        raise CannotMeasure("no draft was revised")
    usual = median(one.whole for one in plain)
    return Comparison(
        ours=[one.whole for one in principled],
        peer=[one.whole for one in plain],
        figures={WHOLE: median(revised) / usual, FIRST_SIGN: max(one.first_sign for one in principled)},
        note=f"{CHATS} red-team prompts; {len(revised)} drafts were revised",
    )


def _chat(http: httpx2.Client, text: str, constitutional: bool) -> Timed:
    body = {
        "model": "hone",
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "hone": {"constitutional": constitutional},
    }
    began, first_sign, revised = time.perf_counter(), 0.0, False
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            stage = event.get("hone", {})
            shows = "stage" in stage or any(choice["delta"].get("content") for choice in event.get("choices", ()))
            if shows and not first_sign:
                first_sign = time.perf_counter() - began
            revised = revised or stage.get("revised", False)
    whole = time.perf_counter() - began
    return Timed(first_sign or whole, whole, revised)
