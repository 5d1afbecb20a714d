"""From arguments to a running engine: model, precision, device, threads and the size of the cache."""

import os

import torch

from service.embedded.arguments import GIB, EngineArguments
from service.embedded.checkpoint import Checkpoint, open_checkpoint
from service.embedded.engine import Engine
from service.embedded.errors import EngineError
from service.embedded.kv_cache import KvCache, Plane
from service.embedded.llama import Llama
from service.embedded.llama_weights import LlamaWeights, is_fast
from service.embedded.messages import Ready
from service.embedded.model import Model

USUAL_CACHE = GIB  # KV cache on a CPU that nobody sized
WORTH_A_THREAD = 8 * 2**20  # bytes of weights
GPU_SHARE = 0.6  # of the free GPU memory, likewise


def assemble(arguments: EngineArguments) -> tuple[Engine, Ready]:
    """Load the model and allot the cache. Raises EngineError, saying what to change."""
    checkpoint = open_checkpoint(arguments.model)
    device = _device(arguments.device)
    dtype = _dtype(arguments.dtype, checkpoint, device)
    longest = arguments.max_model_len or checkpoint.max_positions or 2048
    if checkpoint.max_positions is not None and longest > checkpoint.max_positions:
        raise EngineError(f"--max-model-len {longest} is above the model's {checkpoint.max_positions} positions")
    model = _load_model(checkpoint, arguments, longest, dtype, device)
    torch.set_num_threads(arguments.threads or default_threads(model.weight_bytes))
    size = token_bytes(model.planes, dtype)
    tokens = _cache_tokens(arguments, size, longest, device)
    longest = _fitting_length(arguments, tokens, longest, size)
    cache = KvCache(model.planes, tokens, arguments.max_num_seqs, longest, dtype, device)
    ready = Ready(
        model_path=str(checkpoint.path),
        max_model_len=longest,
        vocab_size=model.vocab_size,
        kv_tokens=tokens,
        kv_bytes=tokens * size,
        eos_token_ids=checkpoint.eos_token_ids(),
        sampling_defaults=checkpoint.sampling_defaults(),
        lines=[
            f"Model {arguments.name} ({checkpoint.architecture}) in {str(dtype).removeprefix('torch.')} on {device}, "
            f"{torch.get_num_threads()} threads.",
            f"KV cache: {tokens * size / GIB:.2f} GiB at most, {tokens} tokens; "
            f"{longest} tokens a sequence, {arguments.max_num_seqs} sequences at once.",
        ],
    )
    return Engine(model, cache, arguments.seed), ready


def token_bytes(planes: list[Plane], dtype: torch.dtype) -> int:
    """What one token takes in the cache."""
    return sum(plane.heads * plane.dim for plane in planes) * dtype.itemsize


def default_threads(weight_bytes: int) -> int:
    """One core is left to HTTP; a small model gains nothing from many, since threads that wait for each other cost."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, weight_bytes // WORTH_A_THREAD))


def _load_model(
    checkpoint: Checkpoint, arguments: EngineArguments, longest: int, dtype: torch.dtype, device: torch.device
) -> Model:
    if is_fast(checkpoint, longest):
        return Llama(LlamaWeights(checkpoint, longest, dtype, device), arguments.merged_lora_bytes)
    from service.embedded.general import load_general  # it imports transformers, which takes seconds

    return load_general(checkpoint, longest, dtype, device)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(f"--device {name} is not usable here: {error}") from error
    return device


def _dtype(name: str, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """As asked; else what the weights are stored in on a GPU, and float32 on a CPU, where it is the fastest."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    return checkpoint.dtype if device.type != "cpu" else torch.float32


def _cache_tokens(arguments: EngineArguments, size: int, longest: int, device: torch.device) -> int:
    useful = arguments.max_num_seqs * longest
    if arguments.kv_cache_bytes is not None:
        return min(arguments.kv_cache_bytes // size, useful)
    bound = USUAL_CACHE
    if device.type == "cuda":
        bound = int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE)
    return min(bound // size, useful)


def _fitting_length(arguments: EngineArguments, tokens: int, longest: int, size: int) -> int:
    """The longest sequence that the cache holds, if nobody asked for longer ones."""
    if tokens >= longest:
        return longest
    if arguments.max_model_len is not None or tokens < 1:
        raise EngineError(
            f"the KV cache holds {tokens} tokens, one sequence of {longest} needs {longest * size / GIB:.2f} GiB: "
            "raise --kv-cache-gib or lower --max-model-len"
        )
    return tokens
