"""What the service costs between a caller and an engine, beside LiteLLM's proxy and beside nothing at all.

Everything runs in processes of its own on one machine: the engine, the service, LiteLLM's proxy, and all callers
together. The engine of `gateway-latency` and `gateway-rps` is a mock that answers at once, with 32 tokens.

Both gateways store what they pass on before the caller has the whole answer: the service its exchange, with token ids
and log-probabilities, in SQLite that waits for the disk (`synchronous=FULL`); LiteLLM, whose own database needs a
server and stores some time afterwards, a line of JSON with request and answer, by a callback that waits for the disk
(`litellm_proxy/durable_log.py`). Both run one process, as they come.

- `gateway-latency`: 16 callers, each of whom pauses for a random while (0.4 s on average) between an answer and the
  next request: 40 requests a second or so, which either gateway can well take. The figure is the median latency through
  the gateway less the median of the same callers straight at the mock; the note has the 99th percentiles.
- `gateway-rps`: callers without a pause, 1, 2, 4, … of them, until the 99th percentile passes 50 ms: the most answers
  per second below that. Engine and callers compute on the same two cores.
- `stream-tax`: tokens per second of 8 streams from the embedded engine over `sprout`, asked through the service and
  straight. The straight callers don't ask for the log-probabilities and token ids that the service keeps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.bench.callers import Stretch, Target, load
from tests.bench.gateway_processes import litellm, mock_engine, service
from tests.bench.harness import Comparison, alternate, benchmark
from tests.fixtures.engines import serving_sprout

TOKENS = 32
ASKED = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What should one know before one goes to sea for the first time?"},
    ],
    "max_tokens": TOKENS,
}
CALLERS, PAUSE = 16, 0.4
SECONDS, ROUNDS = 4.0, 5
MOST_SECONDS = 0.05  # of the 99th percentile
CALLERS_TRIED = (1, 2, 4, 8, 16, 32, 64)
STREAMS = 8


def target(url: str, model: str, **fields: Any) -> Target:
    return Target(f"{url}/v1/chat/completions", {"model": model, **ASKED, **fields})


def percentile_99(seconds: Sequence[float]) -> float:
    return quantiles(seconds, n=100)[-1]


@benchmark(
    "gateway-latency",
    unit="ms added to the median answer",
    peer_name="LiteLLM's proxy",
    higher_is_better=False,
    target=3.0,
)
def gateway_latency() -> Comparison:
    with mock_engine(TOKENS) as engine, service(engine) as ours, litellm(engine) as theirs:
        targets = [target(engine, "mock"), target(ours, "hone"), target(theirs, "hone")]
        load(targets, CALLERS, SECONDS, PAUSE)  # all warm up
        straight, through_ours, through_theirs = load(targets, CALLERS, SECONDS, PAUSE, ROUNDS)

    def added(through: Sequence[Stretch], of: Callable[[Sequence[float]], float]) -> list[float]:
        pairs = zip(through, straight, strict=True)
        return [1000 * (of(gateway.latencies) - of(engine.latencies)) for gateway, engine in pairs]

    ours_99, theirs_99 = (median(added(one, percentile_99)) for one in (through_ours, through_theirs))
    note = f"{CALLERS} callers; added to the 99th percentile: {ours_99:.1f} ms by ours, {theirs_99:.1f} ms by LiteLLM"
    return Comparison(added(through_ours, median), added(through_theirs, median), note)


@benchmark("gateway-rps", unit="answers/s at p99 < 50 ms", peer_name="LiteLLM's proxy", target=3.0)
def gateway_rps() -> Comparison:
    with mock_engine(TOKENS) as engine, service(engine) as ours, litellm(engine) as theirs:
        ours_asked, theirs_asked = target(ours, "hone"), target(theirs, "hone")
        load([ours_asked, theirs_asked], CALLERS, SECONDS)  # both warm up
        return alternate(partial(most_answers, ours_asked), partial(most_answers, theirs_asked), repeats=3)


def most_answers(asked: Target) -> float:
    """Per second, below the latency; 0 if even one caller waits longer."""
    most = 0.0
    for callers in CALLERS_TRIED:
        [[seen]] = load([asked], callers, 2.0)
        if percentile_99(seen.latencies) > MOST_SECONDS:
            break
        most = max(most, seen.rate)
    return most


@benchmark("stream-tax", unit="tokens/s", peer_name="straight from the engine", target=0.98)
def stream_tax() -> Comparison:
    fields: Mapping[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "max_tokens": 128,
    }
    with (
        tempfile.TemporaryDirectory() as temporary,
        serving_sprout("embedded", Path(temporary) / "engine", {}, {}) as engine,
        service(engine.url) as ours,
    ):
        targets = [target(ours, "hone", **fields), target(engine.url, "sprout", **fields)]
        load(targets, STREAMS, 2.0)  # both warm up
        through, straight = load(targets, STREAMS, SECONDS, rounds=ROUNDS)
    gaps = [1000 * median(percentile_99(one.gaps) for one in seen) for seen in (through, straight)]
    note = "{} streams; 99th percentile of the gaps: {:.1f} ms through the service, {:.1f} ms straight"
    ours_rates, straight_rates = ([one.tokens / one.seconds for one in seen] for seen in (through, straight))
    return Comparison(ours_rates, straight_rates, note.format(STREAMS, *gaps))
