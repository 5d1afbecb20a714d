"""From arguments to a running engine: model, precision, device, threads and the size of the cache."""

import torch

from service.embedded.arguments import GIB, EngineArguments
from service.embedded.checkpoint import Checkpoint, open_checkpoint
from service.embedded.engine import Engine
from service.embedded.errors import EngineError
from service.embedded.kernel import load_kernel
from service.embedded.kv_cache import KvCache, Plane
from service.embedded.llama import Llama
from service.embedded.llama_weights import LlamaShape, LlamaWeights, is_fast
from service.embedded.messages import Ready
from service.embedded.model import Model
from service.embedded.prefix_cache import MOST_KEPT
from service.settings import available_cores

USUAL_CACHE = GIB  # KV cache on a CPU that nobody sized
KERNEL_WEIGHTS = 16 * 2**20  # numbers, at most, for the compiled forward pass
KERNEL_THREADS = 4  # at most, unless told
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
    model, threads = _load_model(checkpoint, arguments, longest, dtype, device)
    size = token_bytes(model.planes, dtype)
    tokens = _cache_tokens(arguments, size, longest, device)
    longest = _fitting_length(arguments, tokens, longest, size)
    scattered = model.crew is not None
    cache = KvCache(model.planes, tokens, arguments.max_num_seqs, longest, dtype, device, scattered)
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
            f"{threads} threads, {_by_what(model)}.",
            f"KV cache: {tokens * size / GIB:.2f} GiB at most, {tokens} tokens; "
            f"{longest} tokens a sequence, {arguments.max_num_seqs} sequences at once.",
        ],
    )
    return Engine(model, cache, arguments.seed, MOST_KEPT if arguments.enable_prefix_caching else 0), ready


def _by_what(model: Model) -> str:
    """Who multiplies the matrices, for the start-up line."""
    if isinstance(model, Llama) and model.weights.kernel is not None:
        return "compiled for this processor"
    if isinstance(model, Llama) and _suits_kernel(model.shape, model.dtype, model.device):
        return "by torch: with a C compiler (cc) that works, this model would answer several times faster"
    return "by torch"


def token_bytes(planes: list[Plane], dtype: torch.dtype) -> int:
    """What one token takes in the cache."""
    return sum(plane.heads * plane.dim for plane in planes) * dtype.itemsize


def default_threads(weight_bytes: int) -> int:
    """For torch. One core is left to HTTP, and threads that wait for each other in every product want long products."""
    return max(1, min(available_cores() - 1, weight_bytes // WORTH_A_THREAD))


def _load_model(
    checkpoint: Checkpoint, arguments: EngineArguments, longest: int, dtype: torch.dtype, device: torch.device
) -> tuple[Model, int]:
    """The model, and how many threads it computes with."""
    threads = arguments.threads
    if not is_fast(checkpoint, longest):
        from service.embedded.general import load_general  # it imports transformers, which takes seconds

        general = load_general(checkpoint, longest, dtype, device)
        torch.set_num_threads(threads or default_threads(general.weight_bytes))
        return general, torch.get_num_threads()
    shape = LlamaShape.read(checkpoint.config)
    kernel = load_kernel() if _suits_kernel(shape, dtype, device) else None
    weights = LlamaWeights(checkpoint, longest, dtype, device, kernel)
    if kernel is None:
        llama = Llama(weights)
        torch.set_num_threads(threads or default_threads(llama.weight_bytes))
        return llama, torch.get_num_threads()
    torch.set_num_threads(1)  # what is left to torch is too small to share, and its threads wait by spinning
    threads = threads or min(available_cores(), KERNEL_THREADS)
    return Llama(weights, threads), threads


def _suits_kernel(shape: LlamaShape, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the model is small; a larger one needs torch's threads more than a compiled forward pass."""
    size = sum(inner * outer for inner, outer in shape.linear_shapes().values())
    return dtype == torch.float32 and device.type == "cpu" and size <= KERNEL_WEIGHTS


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
