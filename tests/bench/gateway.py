"""What the service costs between a caller and an engine, beside LiteLLM's proxy and beside nothing at all.

Everything runs in processes of its own on one machine: the engine, the service, LiteLLM's proxy, and all callers
together. The engine of `gateway-latency` and `gateway-rps` is a mock that answers at once, with 32 tokens.

Both gateways store what they pass on before the caller has the whole answer: the service its exchange, with token ids
and log-probabilities, in SQLite that waits for the disk (`synchronous=FULL`); LiteLLM, whose own database needs a
server and stores some time afterwards, a line of JSON with request and answer, by a callback that waits for the disk
(`litellm_proxy/durable_log.py`). Both run one process, as they come.

- `gateway-latency`: 16 callers, each of whom pauses for a random while (0.4 s on average) between an answer and the
  next request: 40 requests a second or so, which either gateway can well take. The figure is the median latency through
  the gateway less the median of the same callers straight at the mock. With such pauses hardly two requests are ever
  under way at once, so the same is measured with pauses of 0.05 s, too: up to 300 requests a second, more than
  LiteLLM's proxy can take, whose callers wait in line. What the service adds is asked to be little by itself, in the
  median and in the 99th percentile, with either pause, and without any. Then 16 callers keep engine, gateway and
  themselves waiting for the same two cores, so that what is added is mostly the wait in line.
- `gateway-rps`: callers without a pause, 1, 2, 4, … of them, until the 99th percentile passes 50 ms: the most answers
  per second below that. Engine and callers compute on the same two cores.
- `stream-tax`: tokens per second of 8 streams from the embedded engine over `sprout`, asked through the service and
  straight. Replies are made to go on for 900 tokens, so that it is streaming that is measured: what a request costs
  once is the subject of `gateway-latency`, and the note says what becomes of replies of 64 tokens. The straight callers
  don't ask for the log-probabilities and token ids that the service keeps; the note says what they get when they do,
  which is the engine's work and not the service's. The engine computes with one thread, so that service and callers
  don't take its core; the note also says what becomes of it where it computes on both, and so gets the less of them the
  more the service takes.
- `stream-tax-paced`: the same with the mock for an engine that has a processor of its own, as one on a GPU does: 32
  streams with a token every 20 ms.

In both of the latter callers begin at moments of their own, as people do: streams that begin together end together, and
then all wait in one line. Both ask that the service doesn't lengthen the gaps between tokens: their 99th percentile, as
a multiple of the straight one, with 5 % for what two measurements of the same differ by.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from service.settings import SPROUT
from tests.bench.callers import Stretch, Target, load
from tests.bench.engine_load import engine
from tests.bench.gateway_processes import litellm, mock_engine, service
from tests.bench.harness import Comparison, alternate, benchmark

TOKENS = 32
ASKED = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What should one know before one goes to sea for the first time?"},
    ],
    "max_tokens": TOKENS,
}
CALLERS, PAUSES = 16, (0.4, 0.05, 0.0)  # seconds
SECONDS, ROUNDS = 4.0, 5
MOST_SECONDS = 0.05  # of the 99th percentile
CALLERS_TRIED = (1, 2, 4, 8, 16, 32, 64)
STREAMS, STREAM_TOKENS, SHORT_STREAM_TOKENS = 8, 900, 64
SPREAD, STREAM_ROUNDS = 1.5, 9  # seconds
PACED_STREAMS, PACED_TOKENS, GAP_SECONDS = 32, 128, 0.02
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
DETAILED: dict[str, Any] = {"logprobs": True, "top_logprobs": 0, "return_token_ids": True}  # as the service asks
MOST_ADDED_MS = {50: 1.5, 99: 15.0}  # by percentile
MOST_GAP_GROWTH = 1.05
GAP_GROWTH = "99th percentile of the gaps, times the straight one"
LITELLMS_LOG = (
    "LiteLLM logs each request as durably as it can be made to here: a callback writes a line of JSON with request and "
    "answer and waits for the disk (fsync) before the answer goes out; its own database needs a server, and is written "
    "some time later"
)


def added_name(which: int, pause: float) -> str:
    return f"ms added to the {'median' if which == 50 else f'{which}th percentile'}, {paused(pause)}"


def paused(seconds: float) -> str:
    return f"pauses of {seconds:g} s" if seconds else "no pauses"


def target(url: str, model: str, **fields: Any) -> Target:
    return Target(f"{url}/v1/chat/completions", {"model": model, **ASKED, **fields})


def percentile(seconds: Sequence[float], which: int = 99) -> float:
    return quantiles(seconds, n=100)[which - 1]


@benchmark(
    "gateway-latency",
    unit="ms added to the median answer",
    peer_name="LiteLLM's proxy",
    higher_is_better=False,
    target=3.0,
    limits={added_name(which, pause): most for pause in PAUSES for which, most in MOST_ADDED_MS.items()},
)
def gateway_latency() -> Comparison:
    with mock_engine(TOKENS) as mock, service([mock]) as ours, litellm(mock) as theirs:
        targets = [target(mock, "mock"), target(ours, "hone"), target(theirs, "hone")]
        load(targets, CALLERS, SECONDS, PAUSES[0])  # all warm up
        seen = {pause: load(targets, CALLERS, SECONDS, pause, ROUNDS) for pause in PAUSES}
    figures = {
        added_name(which, pause): median(added(through, straight, which))
        for pause, (straight, through, _) in seen.items()
        for which in MOST_ADDED_MS
    }
    straight, through, through_litellm = seen[PAUSES[0]]
    note = f"{CALLERS} callers; {'; '.join(told(pause, *sides) for pause, sides in seen.items())}. {LITELLMS_LOG}"
    return Comparison(added(through, straight, 50), added(through_litellm, straight, 50), note, figures)


def added(through: Sequence[Stretch], straight: Sequence[Stretch], which: int) -> list[float]:
    """Milliseconds to that percentile, by round."""
    pairs = zip(through, straight, strict=True)
    return [1000 * (percentile(one.latencies, which) - percentile(bare.latencies, which)) for one, bare in pairs]


def told(pause: float, straight: Sequence[Stretch], ours: Sequence[Stretch], litellms: Sequence[Stretch]) -> str:
    rates = [f"{median(one.rate for one in seen):.0f}" for seen in (straight, ours, litellms)]
    sides = [[median(added(seen, straight, which)) for which in (50, 99)] for seen in (ours, litellms)]
    ours_adds, litellm_adds = (f"{in_50:.1f} and {in_99:.1f} ms" for in_50, in_99 in sides)
    return (
        f"with {paused(pause)} ({rates[0]} answers/s straight, {rates[1]} by ours, {rates[2]} by LiteLLM) "
        f"ours adds {ours_adds} to the median and the 99th percentile, LiteLLM {litellm_adds}"
    )


@benchmark("gateway-rps", unit="answers/s at p99 < 50 ms", peer_name="LiteLLM's proxy", target=3.0)
def gateway_rps() -> Comparison:
    with mock_engine(TOKENS) as mock, service([mock]) as ours, litellm(mock) as theirs:
        ours_asked, theirs_asked = target(ours, "hone"), target(theirs, "hone")
        load([ours_asked, theirs_asked], CALLERS, SECONDS)  # both warm up
        found = alternate(partial(most_answers, ours_asked), partial(most_answers, theirs_asked), repeats=3)
    return Comparison(found.ours, found.peer, LITELLMS_LOG)


def most_answers(asked: Target) -> float:
    """Per second, below the latency; 0 if even one caller waits longer."""
    most = 0.0
    for callers in CALLERS_TRIED:
        [[seen]] = load([asked], callers, 2.0)
        if percentile(seen.latencies) > MOST_SECONDS:
            break
        most = max(most, seen.rate)
    return most


@benchmark(
    "stream-tax",
    unit="tokens/s",
    peer_name="straight from the engine",
    target=0.98,
    limits={GAP_GROWTH: MOST_GAP_GROWTH},
)
def stream_tax() -> Comparison:
    with streams(threads=1) as (ours, straight):
        through, bare = load([through_service(ours), bare_engine(straight)], STREAMS, SECONDS, 0, STREAM_ROUNDS, SPREAD)
        others = [
            bare_engine(straight, **DETAILED),
            through_service(ours, SHORT_STREAM_TOKENS),
            bare_engine(straight, SHORT_STREAM_TOKENS),
        ]
        detailed, *short = load(others, STREAMS, SECONDS, 0, ROUNDS, SPREAD)
    with streams(threads=2) as (ours, straight):
        beside = load([through_service(ours), bare_engine(straight)], STREAMS, SECONDS, 0, ROUNDS, SPREAD)
    found = taxed(STREAMS, through, bare, detailed)
    note = f"{found.note}; the ratio is {share(*short):.3f} with replies of {SHORT_STREAM_TOKENS} tokens, and "
    return replace(found, note=f"{note}{share(*beside):.3f} where the engine computes on both cores")


@contextmanager
def streams(threads: int) -> Iterator[tuple[str, str]]:
    """The addresses of the service and of its engine, both warm; no reply of the engine's ends by itself."""
    with (
        tempfile.TemporaryDirectory() as temporary,
        engine(
            *("--model", str(endless_sprout(Path(temporary))), "--served-model-name", "sprout"),
            *("--threads", str(threads)),
        ) as port,
        service([f"http://127.0.0.1:{port}"]) as ours,
    ):
        straight = f"http://127.0.0.1:{port}"
        load([through_service(ours), bare_engine(straight)], STREAMS, 2.0)
        yield ours, straight


def through_service(url: str, tokens: int = STREAM_TOKENS) -> Target:
    return target(url, "hone", **STREAMED, temperature=0.0, max_tokens=tokens)


def bare_engine(url: str, tokens: int = STREAM_TOKENS, **fields: Any) -> Target:
    return target(url, "sprout", **STREAMED, temperature=0.0, max_tokens=tokens, **fields)


def share(some: Sequence[Stretch], others: Sequence[Stretch]) -> float:
    """Of the tokens per second."""
    return median(map(tokens_per_second, some)) / median(map(tokens_per_second, others))


def endless_sprout(folder: Path) -> Path:
    """A copy of the built-in model of which no token ends a reply."""
    copy = Path(shutil.copytree(SPROUT, folder / "sprout"))
    for name in ("config.json", "generation_config.json"):
        content = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(content | {"eos_token_id": None}))
    return copy


@benchmark(
    "stream-tax-paced",
    unit="tokens/s",
    peer_name="straight from the engine",
    target=0.98,
    limits={GAP_GROWTH: MOST_GAP_GROWTH},
)
def stream_tax_paced() -> Comparison:
    with mock_engine(PACED_TOKENS, GAP_SECONDS) as mock, service([mock]) as ours:
        targets = [target(ours, "hone", **STREAMED), target(mock, "mock", **STREAMED)]
        load(targets, PACED_STREAMS, 2.0)  # both warm up
        through, straight = load(targets, PACED_STREAMS, SECONDS, 0, ROUNDS, SPREAD)
    return taxed(PACED_STREAMS, through, straight)


def taxed(
    count: int, through: Sequence[Stretch], straight: Sequence[Stretch], detailed: Sequence[Stretch] | None = None
) -> Comparison:
    """`detailed`: straight from the engine, with the log-probabilities and token ids that the service asks for."""
    gap, straight_gap = longest_gaps(through), longest_gaps(straight)
    note = f"{count} streams; 99th percentile of the gaps: {1000 * gap:.1f} ms through the service, "
    note += f"{1000 * straight_gap:.1f} ms straight"
    if detailed is not None:
        rate = median(map(tokens_per_second, detailed))
        note += f"; straight, asking for log-probabilities and token ids as the service does, {rate:.0f} tokens/s "
        note += f"and {1000 * longest_gaps(detailed):.1f} ms"
    ours_rates, straight_rates = ([tokens_per_second(one) for one in seen] for seen in (through, straight))
    return Comparison(ours_rates, straight_rates, note, {GAP_GROWTH: gap / straight_gap})


def longest_gaps(seen: Sequence[Stretch]) -> float:
    """The 99th percentile, in seconds."""
    return median(percentile(one.gaps) for one in seen)


def tokens_per_second(seen: Stretch) -> float:
    return seen.tokens / seen.seconds
