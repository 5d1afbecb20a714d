"""The general path: any causal language model of transformers, run by its own modules over our rows of the cache.

transformers computes every layer; we give it a cache that writes into the `KvCache` and hands back views of it. A
decode step runs all rows at once with a mask per row where the architecture takes one. Whether it does is found out by
trying, when the model is loaded: if a batch of unequal rows does not reproduce each row alone, rows are decoded one by
one, which is slower and right for every architecture.
"""

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.pytorch_utils import Conv1D

from service.embedded.checkpoint import Checkpoint
from service.embedded.crew import Crew
from service.embedded.errors import EngineError
from service.embedded.general_cache import ManyRows, OneRow, RowsCache, StepRows, cache_planes
from service.embedded.general_lora import GeneralAdapter, RowDeltas
from service.embedded.kv_cache import KvCache, Plane
from service.embedded.lora import LoraAdapter, Rest, go_on
from service.embedded.model import DecodeBatch, Stretch

TRIAL = ([5, 9, 4, 7, 6, 3, 8], [4, 8, 3])  # token ids of the trial: two rows of unequal length
SLIDING = {"mistral", "mixtral", "phi3", "starcoder2"}  # here `sliding_window` holds for every layer
CLOSE = 0.02  # largest difference of log-probabilities that rounding explains


class GeneralModel:
    """A `Model` around transformers' own modules."""

    def __init__(self, module: torch.nn.Module, max_model_len: int) -> None:
        self.module = module
        self.config = cast(Any, module.config).get_text_config()
        self.dtype = next(module.parameters()).dtype
        self.device = next(module.parameters()).device
        self.weight_bytes = sum(parameter.nbytes for parameter in module.parameters())
        self.crew: Crew | None = None  # torch computes all
        self._takes_positions = "position_ids" in inspect.signature(module.forward).parameters
        self._linears = {
            name: part
            for name, part in module.named_modules()
            if isinstance(part, torch.nn.Linear | Conv1D) and ".experts." not in name and not name.endswith("lm_head")
        }
        self._deltas = RowDeltas(self._linears)
        self.planes, self.vocab_size = self._look()
        self._windows = _windows(self.config, max_model_len)
        self.batches = self._windows is not None and self._takes_positions and self._batches_rightly()

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        return {name: _shape(part) for name, part in self._linears.items()}

    @torch.inference_mode()
    def prepare(self, adapter: LoraAdapter, rest: Rest = go_on) -> GeneralAdapter:
        return GeneralAdapter.of(adapter, self.dtype, self.device, rest)

    @torch.inference_mode()
    def prefill(self, cache: KvCache, stretches: Sequence[Stretch]) -> list[Tensor]:
        return [self._prefill(cache, stretch) for stretch in stretches]

    def _prefill(self, cache: KvCache, stretch: Stretch) -> Tensor:
        with self._deltas.on_all_rows(cast(GeneralAdapter | None, stretch.adapter)):
            row = OneRow(cache, stretch.row, stretch.start, len(stretch.tokens))
            logits = self._forward(stretch.tokens[None], row)[0]
        return logits if stretch.every else logits[-1:]

    @torch.inference_mode()
    def decode(self, batch: DecodeBatch) -> Tensor:
        adapters = cast(list[GeneralAdapter | None], batch.adapters)
        if self.batches:
            with self._deltas.on_rows(adapters, self.device):
                rows = ManyRows(batch)
                return self._forward(batch.tokens[:, None], rows, self._masks(batch), batch.positions[:, None])[:, 0]
        logits = []
        for row, start in enumerate(batch.positions.tolist()):
            with self._deltas.on_all_rows(adapters[row]):
                logits.append(self._forward(batch.tokens[row : row + 1, None], OneRow(batch.cache, row, start, 1))[0])
        return torch.cat(logits)

    def decode_beside(self, batch: DecodeBatch, stretches: Sequence[Stretch]) -> tuple[Tensor, list[Tensor]]:
        return self.decode(batch), self.prefill(batch.cache, stretches)

    def _forward(
        self,
        tokens: Tensor,
        rows: StepRows,
        mask: Tensor | dict[str, Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits `(rows, t, vocab)` of `tokens` `(rows, t)`, in float32."""
        given: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
        if positions is not None:
            given["position_ids"] = positions
        output = self.module(input_ids=tokens, past_key_values=RowsCache(rows), use_cache=True, **given)
        return cast(Tensor, output.logits).float()

    def _masks(self, batch: DecodeBatch) -> Tensor | dict[str, Tensor]:
        """What each row may see, `(rows, 1, 1, longest)`, by kind of layer where the architecture has several."""
        place = torch.arange(batch.longest, device=self.device)
        ahead, behind = place > batch.positions[:, None], batch.positions[:, None] - place

        def mask(window: int | None) -> Tensor:
            hidden = ahead if window is None else ahead | (behind >= window)
            least = torch.finfo(self.dtype).min
            return torch.where(hidden, least, 0.0).to(self.dtype)[:, None, None]

        windows = self._windows or {}
        if list(windows) == ["all"]:
            return mask(windows["all"])
        return {kind: mask(window) for kind, window in windows.items()}

    @torch.inference_mode()
    def _look(self) -> tuple[list[Plane], int]:
        """Run two tokens to see what the layers keep and how many logits come out."""
        cache = DynamicCache(config=self.config)
        tokens = torch.tensor([TRIAL[0][:2]], device=self.device)
        output = self.module(input_ids=tokens, past_key_values=cache, use_cache=True)
        return cache_planes(cache), int(output.logits.shape[-1])

    @torch.inference_mode()
    def _batches_rightly(self) -> bool:
        """Whether rows of unequal length decode together as they do alone."""
        longest = max(map(len, TRIAL))
        cache = KvCache(self.planes, 64 * len(TRIAL), len(TRIAL), 64, self.dtype, self.device)
        alone = []
        for row, trial in enumerate(TRIAL):
            tokens = torch.tensor(trial, device=self.device)
            alone.append(self._forward(tokens[None], OneRow(cache, row, 0, len(trial)))[0, -1])
        batch = DecodeBatch(cache, [t[-1] for t in TRIAL], [len(t) - 1 for t in TRIAL], [None] * len(TRIAL))
        try:
            rows = ManyRows(batch)
            together = self._forward(batch.tokens[:, None], rows, self._masks(batch), batch.positions[:, None])[:, 0]
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
            return False
        difference = torch.stack(alone).log_softmax(-1) - together.log_softmax(-1)
        return longest == batch.longest and bool(difference.abs().max() < CLOSE)


def load_general(checkpoint: Checkpoint, max_model_len: int, dtype: torch.dtype, device: torch.device) -> GeneralModel:
    """Load a model of any architecture that transformers knows; raises EngineError, saying what is wrong with it."""
    checkpoint.files()  # transformers would say less clearly that there are none
    config_soft = checkpoint.text_config.get("attn_logit_softcapping")
    attention = {"attn_implementation": "eager"} if config_soft else {}  # only eager attention caps its logits
    try:
        module = AutoModelForCausalLM.from_pretrained(
            checkpoint.path, dtype=dtype, use_safetensors=True, trust_remote_code=False, **attention
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise EngineError(f"{checkpoint.architecture} cannot be loaded: {error}") from error
    if not checkpoint.config.get("quantization_config"):
        module = module.to(device)
    return GeneralModel(module.eval(), max_model_len)


def _windows(config: Any, max_model_len: int) -> dict[str, int | None] | None:
    """How far each kind of layer looks back (None: all the way); None when we cannot tell, {"all": …} for one kind."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds <= {"full_attention", "sliding_attention"}:
        return None
    if len(kinds) == 2:
        return {"full_attention": None, "sliding_attention": window}
    if kinds == {"sliding_attention"} or (not kinds and config.model_type in SLIDING):
        return {"all": window}
    if kinds or window is None or window >= max_model_len:
        return {"all": None}
    return None


def _shape(part: torch.nn.Linear | Conv1D) -> tuple[int, int]:
    """(in, out) of a linear layer; GPT-2's Conv1D names its sizes otherwise."""
    if isinstance(part, torch.nn.Linear):
        return part.in_features, part.out_features
    return part.nx, part.nf
