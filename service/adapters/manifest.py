"""The manifest: what one adapter is, where it comes from, and how an engine can prove that it serves it.

It lies in the adapter's folder as `manifest.json`; its own SHA-256 is in the store, and it holds those of the other
files, so that the store vouches for every byte.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MANIFEST = "manifest.json"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
REPORT = "report.json"
JUDGE = "judge.json"
"""Only with those whose run had comparisons (`service.adapters.judge`)."""
UNFINISHED = ".unfinished-"
"""Begins the name of a folder that is being written or removed; nobody reads it."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
TokenId = Annotated[int, Field(ge=0)]
Logprob = Annotated[float, Field(allow_inf_nan=False, le=1e-3)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelIdentity(Part):
    """The base that an adapter was trained on: its name, and `service.adapters.fingerprint.base_fingerprint`."""

    name: str
    sha256: Sha256
    quantisation: Literal["nf4"] | None = Field(
        None, description="What its weights were in while the adapter was trained; None: as they are stored."
    )


class FileEntry(Part):
    sha256: Sha256
    bytes: int = Field(ge=0)


class Probe(Part):
    """A reply to a prompt, as tokens, with the trainer's natural log-probability of each token of the reply.

    `logprobs` are those under the adapter, `base_logprobs` those under the bare base: an engine that agrees with the
    second and not with the first has loaded the adapter in vain.
    """

    prompt_token_ids: tuple[TokenId, ...] = Field(min_length=1)
    token_ids: tuple[TokenId, ...] = Field(min_length=1)
    logprobs: tuple[Logprob, ...]
    base_logprobs: tuple[Logprob, ...]

    @model_validator(mode="after")
    def _one_logprob_a_token(self) -> Probe:
        if not len(self.token_ids) == len(self.logprobs) == len(self.base_logprobs):
            raise ValueError("token_ids, logprobs and base_logprobs of a probe have different lengths")
        return self


class AnchorIdentity(Part):
    """The adapter that KL was measured from in a training: its name in the home where that was, and its manifest."""

    name: str
    manifest_sha256: Sha256


class Principles(Part):
    """The constitution by which a model wrote what an adapter was trained on, and what it wrote, by their SHA-256."""

    name: str
    sha256: Sha256
    examples_sha256: Sha256


class Provenance(Part):
    """What its maker says about an adapter before it has a name."""

    parent: str | None = Field(description="The adapter that its training began with; None: the bare base.")
    run_id: str | None
    base: BaseModelIdentity
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    target_modules: tuple[str, ...] = Field(min_length=1)
    method: str
    snapshot_hash: str | None
    probes: tuple[Probe, ...] = Field(min_length=1)
    constitution: Principles | None = Field(
        None, description="None: nothing that it was trained on was written by the model itself."
    )
    anchor: AnchorIdentity | None = Field(
        None, description="What KL was measured from while it was trained; None: the bare base."
    )
    imported_from: str | None = Field(None, description="The name that it had in the home it was exported from.")


class Manifest(Provenance):
    format_version: Literal[1] = 1
    name: str = Field(pattern="^v[1-9][0-9]{0,8}$")
    created_at: datetime
    files: dict[str, FileEntry] = {}

    @classmethod
    def of(cls, provenance: Provenance, name: str, created_at: datetime) -> Manifest:
        """The manifest of an adapter that got its name; `publish_folder` fills in the files."""
        return cls(**{**dict(provenance), "name": name, "created_at": created_at})

    def provenance(self) -> Provenance:
        return Provenance(**{field: getattr(self, field) for field in Provenance.model_fields})

    def encoded(self) -> bytes:
        """What stands in manifest.json."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    def hash(self) -> str:
        """SHA-256 of manifest.json, which the store keeps."""
        return hashlib.sha256(self.encoded()).hexdigest()


def manifest_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of manifest.json, for programs that read it without Hone."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Manifest.model_json_schema()
