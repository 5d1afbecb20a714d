"""An adapter trained against NF4 weights, served over one base or another: how far is the engine from the trainer?

    python -m tests.bench.quantised [--vllm] [--plugin PYTHON] [--write docs/quantised.md]

prints the table of docs/quantised.md, and writes what it measured into it; `make bench` runs it. A QLoRA adapter learns
corrections on `sprout`; replies are drawn from it at temperature 1, and each engine scores them. KL(trainer ‖ engine)
per token is estimated from both log-probabilities (`service.adapters.proof.kl_per_token`), without bias, since the
trainer drew the tokens. The control is an adapter that was trained against the bfloat16 base and is served over that:
what remains there is the engine's own arithmetic.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from learner.backbone import Backbone
from learner.base_tokenizer import reply_tokenizer
from learner.batch import Demonstration, TokenIds, collate
from learner.dequantise import dequantise
from learner.methods import sft
from learner.pretrain.questions import untaught_facts
from learner.sampling import sample
from learner.simulate.people import right_reply
from service.adapters.manifest import Probe
from service.adapters.proof import judge, kl_per_token, mean_gap
from service.settings import SPROUT, LearnerSettings, RolloutSettings
from tests.engine_contract.asking import scores
from tests.fixtures.engines import SMALL, ServedEngine, serving_sprout, why_vllm_cannot_run

PROBES = 4  # of the replies, for the proof that the rollout asks for
Quantise = Literal["none", "nf4"]


@dataclass(frozen=True)
class Trained:
    """An adapter's folder, and replies drawn from it with the trainer's log-probabilities under adapter and base."""

    folder: Path
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Fit:
    """How an engine agrees with a trainer about the trainer's own replies."""

    kl: float
    gap: float
    proof: str

    def row(self, *named: str) -> str:
        return f"| {' | '.join(named)} | {self.kl:.1e} | {self.gap:.4f} | {self.proof} |"


def train(folder: Path, quantise: Quantise, lessons: int = 24, replies: int = 96) -> Trained:
    """Learn so many corrections, then draw replies."""
    settings = LearnerSettings(quantise=quantise)
    backbone = Backbone.load(SPROUT, settings)
    facts = untaught_facts(seed=1)[:lessons]
    tokenize = reply_tokenizer(str(SPROUT))
    prompts = [asked(backbone, fact.text) for fact in facts]
    demonstrations = [
        Demonstration(prompt, tokenize(right_reply(fact)), f"c{number}", f"fb-{number}")
        for number, (prompt, fact) in enumerate(zip(prompts, facts, strict=True))
    ]
    sft.train(backbone, demonstrations, prompts, settings, _quiet)
    backbone.save_adapter(folder)
    per_prompt = -(-replies // len(prompts))
    drawn = sample(backbone, prompts, per_prompt=per_prompt, max_new_tokens=48)
    probes = (_probe(backbone, prompts[reply.prompt], reply.token_ids) for group in drawn for reply in group)
    return Trained(folder, tuple(probes))


def fit(engine: ServedEngine, trained: Trained) -> Fit:
    """Load the adapter there and compare."""
    name = trained.folder.name
    loaded = engine.load(name, trained.folder)
    assert loaded.status_code == 200, loaded.text
    own, base = ([_scored(engine, model, probe) for probe in trained.probes] for model in (name, "sprout"))
    engine.unload(name)
    trainer = [probe.logprobs for probe in trained.probes]
    few = slice(0, PROBES)
    verdict = judge(trained.probes[few], own[few], base[few], {}, RolloutSettings().probe_tolerance)
    return Fit(kl_per_token(trainer, own), mean_gap(own, trainer), "served" if verdict.served else "refused")


def asked(backbone: Backbone, text: str) -> TokenIds:
    messages = [{"role": "user", "content": text}]
    encoded = backbone.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return tuple(int(token) for token in encoded["input_ids"])


def _probe(backbone: Backbone, prompt: TokenIds, reply: TokenIds) -> Probe:
    batch, start = collate([(prompt, reply)], backbone.pad_id), len(prompt)
    with torch.no_grad():
        own, base = (backbone.log_probs(batch, role)[0, start:].tolist() for role in ("policy", "base"))
    return Probe(prompt_token_ids=prompt, token_ids=reply, logprobs=tuple(own), base_logprobs=tuple(base))


def _scored(engine: ServedEngine, model: str, probe: Probe) -> Sequence[float]:
    return scores(engine, model, [*probe.prompt_token_ids, *probe.token_ids])[-len(probe.token_ids) :]


def _quiet(phase: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
    pass


def _rows(place: Path, vllm: bool, plugin: str | None) -> Iterator[str]:
    trained: dict[Quantise, Trained] = {"none": train(place / "plain", "none"), "nf4": train(place / "qlora", "nf4")}
    dequantised = str(place / "sprout-nf4")
    dequantise(SPROUT, Path(dequantised), lambda done, of, name: None)
    bases: list[tuple[str, str | None]] = [("the bfloat16 base", None), ("the dequantised base", dequantised)]
    engines: list[tuple[str, Literal["embedded", "vllm"]]] = [("embedded, float32", "embedded")]
    engines += [("vLLM, bfloat16", "vllm")] if vllm else []
    for named, kind in engines:
        for base, weights in bases:
            with serving_sprout(kind, Path(tempfile.mkdtemp(dir=place)), SMALL | {"weights": weights}) as engine:
                if weights is None:
                    yield fit(engine, trained["none"]).row("the bfloat16 base (control)", named, base)
                yield fit(engine, trained["nf4"]).row("NF4", named, base)
    if plugin is not None:
        chosen: dict[str, Any] = {"vllm_python": plugin, "vllm_options": "--enforce-eager --quantization bitsandbytes"}
        with serving_sprout("vllm", Path(tempfile.mkdtemp(dir=place)), SMALL | chosen) as engine:
            yield fit(engine, trained["nf4"]).row(
                "NF4", "vLLM with the bitsandbytes plugin", "the bfloat16 base, quantised as it is loaded"
            )


def rewritten(page: str, rows: Sequence[str]) -> str:
    """The page with these rows of its table in the place of those about the same. Raises KeyError for a new one."""
    lines = page.splitlines(keepends=True)
    for row in rows:
        about = row.split("|")[:4]  # nothing, then whom it is about
        places = [number for number, line in enumerate(lines) if line.split("|")[:4] == about]
        if len(places) != 1:
            raise KeyError(f"the page has {len(places)} rows about {'|'.join(about).strip(' |')}")
        lines[places[0]] = row + "\n"
    return "".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quantised", description=__doc__)
    parser.add_argument("--vllm", action="store_true", help="measure vLLM of `make vllm`, too")
    parser.add_argument("--plugin", metavar="PYTHON", help="an interpreter with vLLM and its bitsandbytes plugin")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the rows into the table of this page")
    arguments = parser.parse_args()
    with_vllm = arguments.vllm
    if with_vllm and (reason := why_vllm_cannot_run()) is not None:
        print(f"without vLLM: {reason}.", file=sys.stderr, flush=True)
        with_vllm = False
    torch.set_num_threads(1)
    print("| adapter trained against | engine | serves | KL per token | mean gap | proof |")
    print("| --- | --- | --- | ---: | ---: | --- |")
    rows = []
    with tempfile.TemporaryDirectory(prefix="hone-quantised-") as place:
        for row in _rows(Path(place), with_vllm, arguments.plugin):
            print(row, flush=True)
            rows.append(row)
    if arguments.write:
        arguments.write.write_text(rewritten(arguments.write.read_text("utf-8"), rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
