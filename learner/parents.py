"""What a run starts from: the adapter that is live, or the one that was asked for; what is to be said of that; and the
anchor, which the policy is held to.

One that learned from feedback that was withdrawn since gives way to what it comes from, and one that was made for
another base model to the base.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from learner.starting_adapter import kept_shape
from service.adapters.fingerprint import base_fingerprint
from service.adapters.manifest import Manifest
from service.adapters.registry import Registry
from service.errors import BadInput, Conflict, NotFound
from service.settings import Settings
from service.store.queries import adapters, runs, serving
from service.store.queries.adapters import BASE
from service.store.session import Store
from service.store.tables import Run

PARENT = "parent"
OR = "Or set learner.anchor to base or parent."


@dataclass(frozen=True)
class Parents:
    """Those of one home."""

    settings: Settings
    store: Store

    def check(self, name: str) -> None:
        """Whether a run may be asked to start from it: `base`, or an adapter of this base that nobody rejected.

        Raises NotFound, Conflict, BadInput, AdapterBroken, AdapterUnreachable.
        """
        if name == BASE:
            return
        with self.store.read() as tx:
            adapter = adapters.get_adapter(tx, name)
        if adapter is not None and adapter.state == "rejected":
            raise Conflict(
                f"{name} was rejected: {adapter.reason}", "A run starts from one that was not, or from base."
            )
        if not self._is_of_this_base(name):
            raise BadInput(
                f"{name} was made for another base model than {self.settings.engine.model}.",
                "A run starts from an adapter of its own base, or from base.",
            )

    def choose(self, run: Run) -> str | None:
        """What the run is to start from; None: the base. Raises as `check` where somebody asked for it."""
        wanted = asked_for(run)
        if wanted is not None:
            self.check(wanted)
        with self.store.read() as tx:
            _, clean = self._start_and_clean(tx, wanted)
        return clean if clean is not None and self._is_of_this_base(clean) else None

    def anchor(self) -> str:
        """What `learner.anchor` comes to: `base`, `parent`, or an adapter. One that knows feedback that was withdrawn
        gives way to what it comes from. Raises NotFound, BadInput, AdapterBroken, AdapterUnreachable."""
        wanted = self.settings.learner.anchor
        if wanted in (BASE, PARENT):
            return wanted
        with self.store.read() as tx:
            if adapters.get_adapter(tx, wanted) is None:
                raise NotFound(
                    f"There is no adapter {wanted}, which learner.anchor names.", f"`hone adapters list` has all. {OR}"
                )
            clean = runs.without_withdrawn(tx, wanted)
        if not self._is_of_this_base(wanted):
            raise BadInput(
                f"{wanted}, which learner.anchor names, was made for another base model than "
                f"{self.settings.engine.model}.",
                OR,
            )
        return clean or BASE

    def anchor_of(self, run: Run) -> tuple[Path, Manifest] | None:
        """The adapter that this run is held to, which `run.parent` is or comes from; None: the base.

        No other will do: what an anchor learned, a policy that is held to it learns, too, and it could be unlearned no
        more by going back to where the policy began. Raises Conflict for such, and as `anchor` does.
        """
        anchor, parent = self.anchor(), run.parent or BASE
        name = parent if anchor == PARENT else anchor
        if name == BASE:
            return None
        with self.store.read() as tx:
            if name not in (one.name for one in adapters.lineage(tx, parent)):
                raise Conflict(
                    f"{name}, which learner.anchor names, is nothing that {_in_words(run.parent)} comes from, where "
                    "the run starts.",
                    f"Start from {name} (`--parent {name}`), or promote it. {OR}",
                )
        return Registry.of(self.settings, self.store).check(name)

    def of_the_anchor(self, name: str | None) -> str:
        """What is to be said of what a run is held to, which `anchor_of` found; None: the base."""
        wanted, held = self.settings.learner.anchor, f"It is held to {_in_words(name)}"
        if wanted == PARENT:
            return f"{held}." if name else f"{held}, since learner.anchor is parent and it starts from there."
        if name != wanted and wanted != BASE:
            return f"{held}: {wanted}, which learner.anchor names, knows feedback that was withdrawn."
        return f"{held}." if name else ""

    def folder_of(self, run: Run) -> tuple[Path | None, str]:
        """That of `run.parent`, None for the base; and what is to be said of where the run starts from."""
        wanted, name = asked_for(run), run.parent
        with self.store.read() as tx:
            start, clean = self._start_and_clean(tx, wanted)
        remark = f"It starts from {_in_words(name)}, as it was asked." if wanted is not None else ""
        if start not in (BASE, clean):
            remark = f"It starts from {_in_words(name)}: {start} knows feedback that was withdrawn."
        if name is None:
            is_strange = clean is not None and not self._is_of_this_base(clean)
            return None, f"It starts from the base: {clean} was made for another one." if is_strange else remark
        folder, manifest = Registry.of(self.settings, self.store).check(name)
        kept = kept_shape(name, manifest.rank, manifest.alpha, self.settings.learner)
        return folder, f"{remark} {kept}".strip()

    def _start_and_clean(self, tx: Session, wanted: str | None) -> tuple[str, str | None]:
        """What is wanted, else what is live; and it or what it comes from that learned from nothing withdrawn since,
        None: the base."""
        start = wanted or serving.desired_state(tx).live
        return start, runs.without_withdrawn(tx, start) if start != BASE else None

    def _is_of_this_base(self, name: str) -> bool:
        _, manifest = Registry.of(self.settings, self.store).check(name)
        return manifest.base.sha256 == base_fingerprint(self.settings.model_path)


def asked_for(run: Run) -> str | None:
    """What somebody asked the run to start from; None: what is live."""
    wanted: str | None = run.options.get("parent")
    return wanted


def _in_words(name: str | None) -> str:
    return name or "the base"
