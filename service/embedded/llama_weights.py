"""Weights of the Llama family in the layout that the fast path computes with, and which checkpoints it can take."""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from service.embedded.checkpoint import Checkpoint
from service.embedded.errors import EngineError
from service.embedded.kernel import Kernel, Weight

FAMILY = {"llama", "mistral", "qwen2", "qwen3"}


class Matrix(IntEnum):
    """The four fused matrices of a layer."""

    QKV = 0
    OUT = 1
    GATE_UP = 2
    DOWN = 3


PARTS = {
    Matrix.QKV: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    Matrix.OUT: ("self_attn.o_proj",),
    Matrix.GATE_UP: ("mlp.gate_proj", "mlp.up_proj"),
    Matrix.DOWN: ("mlp.down_proj",),
}
"""The checkpoint's linear layers in each fused matrix, in order."""


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of one model of the family."""

    layers: int
    hidden_size: int
    intermediate_size: int
    query_heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    norm_eps: float

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.query_heads // self.kv_heads

    @property
    def rotated_heads(self) -> int:
        return self.query_heads + self.kv_heads

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear layer, by its name in the checkpoint."""
        width, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.query_heads * self.head_dim, self.kv_heads * self.head_dim
        in_layer = {
            "self_attn.q_proj": (width, queries),
            "self_attn.k_proj": (width, keys),
            "self_attn.v_proj": (width, keys),
            "self_attn.o_proj": (queries, width),
            "mlp.gate_proj": (width, inner),
            "mlp.up_proj": (width, inner),
            "mlp.down_proj": (inner, width),
        }
        return {f"model.layers.{n}.{name}": size for n in range(self.layers) for name, size in in_layer.items()}

    @staticmethod
    def read(config: dict[str, Any]) -> "LlamaShape":
        heads = int(config["num_attention_heads"])
        return LlamaShape(
            layers=int(config["num_hidden_layers"]),
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            query_heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocab_size=int(config["vocab_size"]),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        )


def is_fast(checkpoint: Checkpoint, max_model_len: int) -> bool:
    """Whether the fast path computes exactly what this checkpoint asks for; else the general path must."""
    config = checkpoint.config
    if config.get("model_type") not in FAMILY or config.get("quantization_config"):
        return False
    kinds = set(config.get("layer_types") or ["full_attention"])
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    slides = kinds != {"full_attention"} or (config["model_type"] == "mistral" and window and window < max_model_len)
    rope = rope_parameters(config)
    return (
        not slides
        and rope.get("rope_type", "default") in ("default", "linear", "llama3")
        and float(rope.get("partial_rotary_factor") or 1.0) == 1.0
        and config.get("hidden_act", "silu") == "silu"
        and not config.get("mlp_bias")
    )


def rope_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings, from the place where either generation of configuration files keeps them."""
    rope = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
    rope.setdefault("rope_theta", config.get("rope_theta") or 10_000.0)
    rope.setdefault("rope_type", rope.get("type", "default"))
    return rope


def inverse_frequencies(config: dict[str, Any], head_dim: int) -> Tensor:
    """`(head_dim / 2,)`: radians per position, with linear or Llama 3 scaling where the model has it."""
    rope = rope_parameters(config)
    frequencies = 1.0 / float(rope["rope_theta"]) ** (torch.arange(0, head_dim, 2).float() / head_dim)
    if rope["rope_type"] == "linear":
        return frequencies / float(rope["factor"])
    if rope["rope_type"] == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        turns = float(rope["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
        share = ((turns - low) / (high - low)).clamp(0, 1)  # 0: slowed down by the factor, 1: as it was
        return frequencies * share + frequencies / float(rope["factor"]) * (1 - share)
    return frequencies


@dataclass
class LlamaLayer:
    """One layer. `matrices[m]` `(in, out)`, `biases[m]` and `norms[m]` (the norm that comes before it) by `Matrix`."""

    matrices: list[Weight]
    biases: list[Tensor | None]
    norms: list[Tensor | None]
    query_norm: Tensor | None
    key_norm: Tensor | None


class LlamaWeights:
    """A checkpoint's tensors, fused, transposed and permuted.

    With a `kernel` (float32 on a CPU only) the matrices are packed in its panels.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        max_model_len: int,
        dtype: torch.dtype,
        device: torch.device,
        kernel: Kernel | None = None,
    ) -> None:
        self.shape = LlamaShape.read(checkpoint.config)
        self.dtype, self.device, self.kernel = dtype, device, kernel
        reader = _Reader(checkpoint.weights(dtype), self.shape, device)
        self.embedding = reader.take("model.embed_tokens.weight", self.shape.vocab_size, self.shape.hidden_size)
        self.layers = [self._layer(reader, f"model.layers.{number}.") for number in range(self.shape.layers)]
        self.final_norm = reader.take("model.norm.weight", self.shape.hidden_size)
        tied = checkpoint.config.get("tie_word_embeddings") or "lm_head.weight" not in reader.tensors
        head = self.embedding if tied else reader.take("lm_head.weight", *self.embedding.shape)
        self.head = self.packed(head.t())
        angles = torch.arange(max_model_len)[:, None] * inverse_frequencies(checkpoint.config, self.shape.head_dim)
        self.rotation = torch.polar(torch.ones_like(angles), angles)[:, None].to(device)  # (positions, 1, dim / 2)

    @property
    def nbytes(self) -> int:
        """What a step reads."""
        return self.head.nbytes + sum(matrix.nbytes for layer in self.layers for matrix in layer.matrices)

    def packed(self, matrix: Tensor) -> Weight:
        """`matrix` `(in, out)` in the form that these weights are kept in."""
        return matrix.contiguous() if self.kernel is None else self.kernel.pack(matrix)

    def _layer(self, reader: "_Reader", prefix: str) -> LlamaLayer:
        width, dim = self.shape.hidden_size, self.shape.head_dim
        norms: list[Tensor | None] = [None] * len(Matrix)
        norms[Matrix.QKV] = reader.take(prefix + "input_layernorm.weight", width)
        norms[Matrix.GATE_UP] = reader.take(prefix + "post_attention_layernorm.weight", width)
        fused = [reader.fused(prefix, matrix) for matrix in Matrix]
        query_norm, key_norm = (reader.head_norm(f"{prefix}self_attn.{name}_norm.weight", dim) for name in "qk")
        if (query_norm is None) != (key_norm is None):
            raise EngineError(f"the checkpoint has a norm for queries or keys alone in {prefix}self_attn")
        return LlamaLayer(
            matrices=[self.packed(weight.t()) for weight, _ in fused],
            biases=[bias for _, bias in fused],
            norms=norms,
            query_norm=query_norm,
            key_norm=key_norm,
        )


@dataclass(frozen=True)
class _Reader:
    """Takes tensors out of a checkpoint, with their shapes checked."""

    tensors: dict[str, Tensor]
    shape: LlamaShape
    device: torch.device

    def take(self, name: str, *size: int) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise EngineError(f"the checkpoint lacks the tensor {name}")
        if tuple(tensor.shape) != size:
            raise EngineError(f"{name} has shape {tuple(tensor.shape)}, the configuration says {size}")
        return tensor.to(self.device)

    def fused(self, prefix: str, matrix: Matrix) -> tuple[Tensor, Tensor | None]:
        """The parts of one fused matrix below each other `(out, in)`, and their biases `(out,)` where there are any."""
        parts = [prefix + part for part in PARTS[matrix]]
        sizes = self.shape.linear_shapes()
        weights = [self.take(part + ".weight", sizes[part][1], sizes[part][0]) for part in parts]
        has_bias = parts[0] + ".bias" in self.tensors
        biases = [self.take(part + ".bias", sizes[part][1]) for part in parts] if has_bias else []
        if matrix is Matrix.QKV:
            for rows in (weights, biases):
                rows[:2] = [interleave(part, self.shape.head_dim) for part in rows[:2]]
        return torch.cat(weights), torch.cat(biases) if biases else None

    def head_norm(self, name: str, size: int) -> Tensor | None:
        return interleave(self.take(name, size), size) if name in self.tensors else None


def interleave(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder `(heads * head_dim, …)` so that the two halves that rotary embedding pairs lie side by side."""
    halves = rows.view(-1, 2, head_dim // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)
