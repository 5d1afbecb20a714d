"""The engine's figures as Prometheus text, under the names that vLLM uses."""

from service.embedded.link import Totals
from service.embedded.messages import Load


def render(
    model: str, load: Load, totals: Totals, kv_tokens: int, kv_bytes: int, adapters: list[str], limits: tuple[int, int]
) -> str:
    """The body of `GET /metrics`. `limits`: most adapters, and their largest rank."""
    usage = load.kv_tokens / kv_tokens if kv_tokens else 0.0
    rows = [
        ("gauge", "vllm:num_requests_running", "Sequences that have a row of the KV cache.", load.running),
        ("gauge", "vllm:num_requests_waiting", "Sequences that wait in line.", load.waiting),
        ("gauge", "vllm:kv_cache_usage_perc", "Share of the KV cache in use; 1 is all.", usage),
        ("gauge", "hone:kv_cache_bound_bytes", "Most memory that the KV cache takes.", kv_bytes),
        ("gauge", "hone:loras_loaded", "Adapters that requests can name.", len(adapters)),
        ("gauge", "hone:max_loras", "Most adapters at once.", limits[0]),
        ("gauge", "hone:max_lora_rank", "Largest rank of an adapter.", limits[1]),
        ("counter", "vllm:num_preemptions_total", "Sequences put back in line to be computed again.", load.preemptions),
        ("counter", "vllm:prefix_cache_queries_total", "Prompt tokens looked up in the cache.", load.prefix_queries),
        ("counter", "vllm:prefix_cache_hits_total", "Of them, those found there.", load.prefix_hits),
        ("counter", "vllm:prompt_tokens_total", "Prompt tokens received.", totals.prompt_tokens),
        ("counter", "vllm:generation_tokens_total", "Tokens generated.", totals.generation_tokens),
        ("counter", "hone:sequences_total", "Sequences started.", totals.requests),
    ]
    lines = []
    for kind, name, meaning, value in rows:
        lines += [
            f"# HELP {name} {meaning}",
            f"# TYPE {name} {kind}",
            f'{name}{{model_name="{_quoted(model)}"}} {value}',
        ]
    return "\n".join(lines) + "\n"


def _quoted(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
