"""Command-line arguments of the embedded engine; names are vLLM's where vLLM has them."""

import argparse
import math
from dataclasses import dataclass

GIB = 2**30
COMPILERS = ("cc", "gcc", "clang")  # the first of them that there is makes the kernel of small models


@dataclass(frozen=True)
class EngineArguments:
    """What `python -m service.embedded` was asked to do. Sizes are bytes and tokens; None means: work it out."""

    model: str = "sprout"
    served_model_name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8001
    max_num_seqs: int = 64
    kv_cache_bytes: int | None = None
    max_model_len: int | None = None
    max_lora_rank: int = 64
    max_loras: int = 16
    dtype: str = "auto"
    device: str = "auto"
    threads: int = 0
    event_interval: float = 0.04
    enable_prefix_caching: bool = True
    seed: int = 0

    @property
    def name(self) -> str:
        """The base model's name in the API."""
        return self.served_model_name or self.model


def parse_arguments(argv: list[str] | None = None) -> EngineArguments:
    """Parse the command line; exits with a message when it is wrong."""
    usual = EngineArguments()
    parser = argparse.ArgumentParser(prog="python -m service.embedded", description="Serve a model and LoRA adapters.")
    add = parser.add_argument
    add("--model", default=usual.model, help="`sprout` (built in), a model folder, or a hub name")
    add("--served-model-name", help="the base model's name in the API (default: as given to --model)")
    add("--host", default=usual.host, help="address to listen on; there is no authentication, so keep it private")
    add("--port", type=_port, default=usual.port, help="port to listen on (default %(default)s)")
    add("--max-num-seqs", type=_positive, default=usual.max_num_seqs, help="most sequences at once (%(default)s)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--kv-cache-bytes", type=_positive, help="memory bound of the KV cache, in bytes")
    size.add_argument("--kv-cache-gib", type=_gib, help="the same in GiB (default: what is of use, at most 1 GiB)")
    add("--max-model-len", type=_positive, help="longest prompt and reply, in tokens (default: what the model has)")
    add("--max-lora-rank", type=_positive, default=usual.max_lora_rank, help="largest LoRA rank (%(default)s)")
    add("--max-loras", type=_positive, default=usual.max_loras, help="most adapters loaded at once (%(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default=usual.dtype, help="precision")
    add("--device", default=usual.device, help="auto, cpu, cuda, cuda:1, …")
    add(
        "--threads",
        type=_threads,
        default=usual.threads,
        help="CPU threads for the model; 0: as the model and the cores suggest",
    )
    add(
        "--event-interval",
        type=_seconds,
        default=usual.event_interval,
        help="seconds between a stream's events, in which its tokens come together (%(default)s); 0: an event for each",
    )
    add(
        "--enable-prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=usual.enable_prefix_caching,
        help="keep what ended sequences computed, for prompts that begin alike",
    )
    add("--seed", type=int, default=usual.seed, help="seed of requests that bring none")
    options = vars(parser.parse_args(argv))
    gib = options.pop("kv_cache_gib")
    if gib is not None:
        options["kv_cache_bytes"] = int(gib * GIB)
    return EngineArguments(**options)


def _positive(text: str) -> int:
    return int(_between(int(text), 1, math.inf))


def _threads(text: str) -> int:
    return int(_between(int(text), 0, 1024))


def _port(text: str) -> int:
    return int(_between(int(text), 0, 65535))


def _gib(text: str) -> float:
    return _between(float(text), 0, 2**20)


def _seconds(text: str) -> float:
    return _between(float(text), 0, 60)


def _between(value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
    return value
