"""A base model with its adapters, and heads in the output layer's place: which acts, which train, and their files.

PEFT holds the adapters; whichever acts, all that train go on requiring gradients.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from learner.loading import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_adapter, lora_config
from learner.micro_batches import free_memory, is_out_of_memory
from learner.weights_file import write_tensors
from service.settings import LearnerSettings

HeadRole = Literal["reward", "value"]
Role = Literal["policy", "parent", "anchor", "base", "reward", "value", "judge"]
HEAD = "head."
"""Before the names of a head's weights, beside those of its adapter."""
log = logging.getLogger("hone.learner")


class AdaptedModel:
    """The model in all its roles, of which one acts at a time: `policy`, but within `use`."""

    def __init__(self, model: PeftModel, frozen: frozenset[Role]) -> None:
        self.model = model
        self._frozen = frozen  # roles with an adapter of their own beside the policy's; the others are the base
        self._heads: dict[HeadRole, nn.Linear] = {}
        self._active: Role | None = None
        self._adapters = self._list_adapters()
        self._folds = True
        self._select("policy")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def rank(self) -> int:
        """Of the policy's adapter."""
        return int(self.model.peft_config["policy"].r)

    def has(self, role: Role) -> bool:
        """Whether the role has an adapter of its own; if not it is the bare base."""
        return role == "policy" or role in self._frozen or role in self._heads

    def trainable(self, role: Literal["policy", HeadRole] = "policy") -> list[nn.Parameter]:
        """The parameters of a role: those of its adapter, and of its head."""
        own = [parameter for name, parameter in self.model.named_parameters() if _is_lora(name, role)]
        return [*own, *self._heads[role].parameters()] if role != "policy" else own

    def add_head(self, role: HeadRole, outputs: int = 1, seed: int = 0) -> None:
        """Give a role an adapter of its own, of the policy's shape and so far without effect, and a head from the last
        hidden state to `outputs` numbers, drawn at random as small as in Stiennon et al. (arXiv 2009.01325).
        """
        width = int(self.model.config.get_text_config().hidden_size)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model.add_adapter(role, replace(self.model.peft_config["policy"]))
            head = nn.Linear(width, outputs)
            nn.init.normal_(head.weight, std=(width + 1) ** -0.5)
            nn.init.zeros_(head.bias)
        self._heads[role] = head.to(self.device)
        self._adapters = self._list_adapters()
        self._active = None
        self._select("policy")

    def add_judge(self, folder: Path, settings: LearnerSettings) -> None:
        """Hold one more frozen adapter, in the role `judge`. Raises AdapterBroken when it can't be loaded."""
        self.model.add_adapter("judge", lora_config(folder, settings))
        load_adapter(self.model, "judge", folder)
        self._frozen |= {"judge"}
        self._adapters = self._list_adapters()
        self._active = None
        self._select("policy")

    @contextmanager
    def use(self, role: Role) -> Iterator[Any]:
        """The model acting in a role, as a callable like any transformers causal model."""
        if not self.has(role):
            self.model.base_model.disable_adapter_layers()  # `disable_adapter` looks at every module first
            try:
                yield self.model
            finally:
                self.model.base_model.enable_adapter_layers()
                self._require_gradients()
        else:
            self._select(role)
            try:
                yield self.model
            finally:
                self._select("policy")

    @contextmanager
    def merged(self, role: Role) -> Iterator[Any]:
        """As `use`, without gradients and with the adapter folded into the weights, which makes sampling faster.

        Afterwards the base's weights are bit for bit what they were: until then there is a copy of them. Where the base
        is quantised, or shared out between processes, nothing is folded; nor where there is no memory for the copy, and
        from then on.
        """
        layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        kept = list[tuple[Tensor, Tensor]]()
        with torch.no_grad(), self.use(role):
            try:
                if self._folds and self.has(role) and all(_is_plain(layer.get_base_layer().weight) for layer in layers):
                    self._fold(role, layers, kept)
                yield self.model
            finally:
                _unfold(layers, kept)

    def _fold(self, role: Role, layers: Sequence[LoraLayer], kept: list[tuple[Tensor, Tensor]]) -> None:
        """Add the adapter to the weights, and these, each with a copy, to `kept`; or nothing where that doesn't fit."""
        try:
            for layer in layers:
                kept += [(own, own.data.clone()) for own in layer.get_base_layer().parameters()]
            self.model.merge_adapter([role])
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        _unfold(layers, kept)
        kept.clear()
        self._folds = False
        log.warning("Out of memory for a copy of the base's weights; from now on sampling goes without, more slowly.")
        free_memory()

    def adapter_state(self, role: Literal["policy", HeadRole] = "policy") -> dict[str, Tensor]:
        """A copy of a role's weights, by their names in an adapter file; a head's begin with `HEAD`."""
        state = dict(get_peft_model_state_dict(self.model, adapter_name=role, save_embedding_layers=False))
        if role != "policy":
            state |= {HEAD + name: tensor for name, tensor in self._heads[role].state_dict().items()}
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}

    def load_adapter_state(self, state: dict[str, Tensor], role: Literal["policy", HeadRole] = "policy") -> None:
        """Set a role's weights to such a copy."""
        of_head = {name.removeprefix(HEAD): tensor for name, tensor in state.items() if name.startswith(HEAD)}
        of_adapter = {name: tensor for name, tensor in state.items() if not name.startswith(HEAD)}
        set_peft_model_state_dict(self.model, of_adapter, adapter_name=role)
        if role != "policy":
            self._heads[role].load_state_dict(of_head)

    def save_adapter(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors, as PEFT and vLLM load them. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self.adapter_state(), folder / ADAPTER_WEIGHTS, {"format": "pt"})
        config = self.model.peft_config["policy"].to_dict() | {"inference_mode": True}
        text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
        (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")

    def _select(self, role: Role) -> None:
        """Make an adapter the active one."""
        if self._active == role:
            return
        self.model.base_model.set_adapter(role)
        self._require_gradients()
        self._active = role

    def _require_gradients(self) -> None:
        """Of all that trains, all the time: PEFT leaves them to the active adapter, and a backward pass has none for a
        parameter that stopped requiring them after the forward pass."""
        for parameter, trains in self._adapters:
            parameter.requires_grad_(trains)

    def _list_adapters(self) -> list[tuple[nn.Parameter, bool]]:
        """The parameters of all adapters, each with whether it trains."""
        return [
            (parameter, any(_is_lora(name, role) for role in ("policy", *self._heads)))
            for name, parameter in self.model.named_parameters()
            if "lora_" in name
        ]


def _is_lora(name: str, role: str) -> bool:
    """Whether a parameter of the model belongs to a role's adapter."""
    return f".{role}." in name and "lora_" in name


def _is_plain(weight: Tensor) -> bool:
    """Whether it is here as it is: not quantised, and not a part of it alone."""
    return weight.dtype.is_floating_point and not isinstance(weight, DTensor)


def _unfold(layers: Sequence[LoraLayer], kept: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Set weights to their copies, which takes no memory; PEFT's way back computes what it takes off once more."""
    for weight, copy in kept:
        weight.data.copy_(copy)
    for layer in layers:
        layer.merged_adapters.clear()


def _plain(value: Any) -> Any:
    """What JSON does not know in a PEFT configuration: sets and enumerations."""
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))
