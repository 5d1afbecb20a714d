"""The registry: the adapters of one home, each a row in the store and a folder that the row vouches for.

Publishing takes three steps, and whatever dies in between leaves nothing that counts as an adapter:
    1. reserve a number, which is never used again                       (transaction)
    2. write the folder under that name, completely                      (temporary name, flush, rename)
    3. register the candidate, and end the run that made it              (transaction)
Publishers hold a lock on the adapters folder, which the kernel takes from them when they die. `recover` takes the same
lock: what is half-published then belongs to nobody alive, and is cleared away (`leftovers`).

Homes on several machines may use one store and share a place (`adapters.url`): what is published is put there before it
is registered, and a home that lacks a registered adapter, or has it damaged or unreadable, fetches it when it is asked
for.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from service.adapters.archive import export_folder, unpack
from service.adapters.files import check_folder, is_sound, publish_folder, read_manifest, remove_folder, unwritable
from service.adapters.fingerprint import LocalModel
from service.adapters.judge import Judge, read_judge
from service.adapters.leftovers import Leftovers
from service.adapters.manifest import JUDGE, MANIFEST, Manifest, Provenance
from service.adapters.place import Place
from service.errors import AdapterBroken, AdapterUnreachable, NotFound, StoreError
from service.settings import Settings
from service.store.queries import adapters, serving
from service.store.session import Store, serialise

_LOCK = ".lock"


class Registry:
    """The adapters in `folder`, whose states are in `store`."""

    def __init__(self, store: Store, folder: Path, base: str | Path | None = None, shared: Place | None = None) -> None:
        """`base`: the base model, by folder or hub name: once its files are here, shapes are compared with them."""
        self.store = store
        self.folder = folder
        self.base = LocalModel(base)
        self.shared = shared
        self._leftovers = Leftovers(store, folder, shared)

    @classmethod
    def of(cls, settings: Settings, store: Store, base: str | Path | None = None) -> Registry:
        """That of a home. Raises BadInput when `adapters.url` needs a package that isn't installed."""
        url = settings.adapters.url
        return cls(store, settings.adapters_folder, base, Place(url) if url else None)

    def publish(
        self,
        source: Path,
        provenance: Provenance,
        report: dict[str, Any],
        reason: str,
        and_then: Callable[[Session, str], None] | None = None,
    ) -> str:
        """Publish what lies in `source` (adapter_config.json, adapter_model.safetensors); returns its new name.

        `and_then(tx, name)` runs in the transaction that registers the candidate: end the run there, request it live.
        When anything fails, that included, no adapter exists and the error is raised; only a StoreError may mean that
        it exists all the same, and that the store's answer was lost. Raises as `publish_folder`.
        """
        with self._publishing():
            self._leftovers.set_unregistered_aside()  # before the store may give their name away
            with self.store.begin() as tx:
                reserved = adapters.reserve_adapter(tx, provenance.parent, provenance.run_id)
                name, created_at = reserved.name, reserved.created_at
            path = self.folder / name
            try:
                publish_folder(source, self.folder, Manifest.of(provenance, name, created_at), report)
                manifest = self._check_new(path)
                if self.shared is not None:
                    (self.shared / name).put(path)
                with self.store.begin() as tx:
                    adapters.register_candidate(tx, name, manifest.hash(), report, reason)
                    if and_then is not None:
                        and_then(tx, name)
            except BaseException as error:
                self._give_up(name, str(error) or type(error).__name__)
                raise
            return name

    def recover(self, run_id: str | None = None) -> list[str]:
        """Clear away what dead publishers left; returns what was done, in words. Call it when a process starts.

        While somebody is publishing there is nothing to do: whoever is waited for cleans up after itself. `run_id`:
        the caller's own run, of which nothing else is under way. What another store published is set aside, which the
        log tells. Raises StoreError.
        """
        with self._publishing(wait=False) as alone:
            try:
                return self._leftovers.clear(run_id) if alone else []
            except OSError as error:
                raise unwritable(self.folder, error) from error

    def check(self, name: str) -> tuple[Path, Manifest]:
        """The folder of a published adapter, checked against the store.

        Where homes share adapters it is fetched if it is missing here, damaged or can't be read. Raises NotFound,
        AdapterBroken, AdapterUnreachable.
        """
        with self.store.read() as tx:
            adapter = adapters.get_adapter(tx, name)
        if adapter is None or adapter.manifest_hash is None:
            raise NotFound(f"There is no adapter {name!r}.", "`hone adapters list` shows them.")
        path, base_folder = self.folder / name, self.base.folder()
        try:
            manifest = check_folder(path, adapter.manifest_hash, base_folder)
        except (AdapterBroken, AdapterUnreachable):
            if self.shared is None:
                raise
            if not is_sound(path, adapter.manifest_hash):  # sound: what is wrong isn't its files, or they just arrived
                self._fetch(name, adapter.manifest_hash, self.shared)
            manifest = check_folder(path, adapter.manifest_hash, base_folder)
        if manifest.name != name:
            raise AdapterBroken(f"Adapter {name}: {MANIFEST} is that of {manifest.name}.")
        return path, manifest

    def judge(self, name: str, checked: tuple[Path, Manifest] | None = None) -> Judge | None:
        """That of a published adapter; None for one without. Raises as `check`, and AdapterBroken for a bad judge.

        `checked`: what `check` gave just now, so that the files are not hashed once more.
        """
        path, manifest = checked or self.check(name)
        return read_judge(path / JUDGE) if JUDGE in manifest.files else None

    def is_of_this_base(self, manifest: Manifest) -> bool:
        """Whether an adapter was trained on the base model that is here; True while none is."""
        may_be = (None, manifest.base.sha256)
        return self.base.sha256() in may_be or self.base.sha256(anew=True) in may_be

    def has_been_live(self, name: str) -> bool:
        """Whether an adapter is live, or ever was. Raises StoreError."""
        with self.store.read() as tx:
            return serving.has_been_live(tx, name)

    def export(self, name: str, target: Path | Place) -> None:
        """Write an adapter to a tar file, or its files to a place; nothing is overwritten.

        Raises NotFound, AdapterBroken, Conflict, StoreError.
        """
        path, _ = self.check(name)
        if isinstance(target, Place):
            target.put(path)
        else:
            export_folder(path, target)

    def import_adapter(self, exported: Path | Place, reason: str) -> str:
        """Publish an exported adapter as a candidate under a new name. Raises BadInput, AdapterBroken, StoreError."""
        with tempfile.TemporaryDirectory(prefix="hone-import-") as folder:
            source = Path(folder) / "adapter"
            if isinstance(exported, Place):
                exported.fetch(source)
            else:
                source.mkdir()
                unpack(exported, source)
            manifest = check_folder(source, base_folder=self.base.folder())
            provenance = manifest.provenance().model_copy(
                update={"parent": None, "run_id": None, "imported_from": manifest.name}
            )
            return self.publish(source, provenance, {"imported_from": manifest.name}, reason)

    def _check_new(self, path: Path) -> Manifest:
        if (base_folder := self.base.folder()) is not None:
            return check_folder(path, base_folder=base_folder)
        return read_manifest(path)

    def _fetch(self, name: str, manifest_hash: str, shared: Place) -> None:
        """Under the publishers' lock, lest `recover` takes what is being written for a dead one's.

        Raises AdapterUnreachable, also when it can't be written here: that may pass, and says nothing of the adapter.
        """
        path = self.folder / name

        def make_way() -> None:
            if path.exists():
                if (sound := is_sound(path)) is False or is_sound(path, manifest_hash):
                    remove_folder(path)
                else:  # if it is sound, it is another of that name, from before this home shared a store
                    self._leftovers.set_aside(path, "is not this store's" if sound else "can't be read")

        try:
            with self._publishing():
                if not is_sound(path, manifest_hash):  # else somebody fetched it while this waited
                    (shared / name).fetch(path, manifest_hash, make_way)
        except AdapterUnreachable:
            raise
        except StoreError as error:
            raise AdapterUnreachable(error.message, error.hint) from error

    def _give_up(self, name: str, reason: str) -> None:
        """As far as it goes: what can't be cleared away now, `recover` will.

        The store is asked first: it may have registered the adapter, and only its answer was lost.
        """
        try:
            with self.store.begin() as tx:
                serialise(tx, "adapters")  # a registration that is still being committed is waited for
                row = adapters.get_adapter(tx, name)
                if row is None or row.manifest_hash is not None:
                    return
                if row.state == "publishing":  # else it was abandoned meanwhile
                    serving.set_state(tx, name, "rejected", adapters.ROLLOUT, f"Not published: {reason}")
            if (self.folder / name).exists():
                remove_folder(self.folder / name)
            self._leftovers.clear_shared()
        except (StoreError, OSError):
            pass

    @contextmanager
    def _publishing(self, wait: bool = True) -> Iterator[bool]:
        """Alone among the publishers of this folder: True; False when that would mean waiting and `wait` is False."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / _LOCK).open("ab")
        except OSError as error:
            raise unwritable(self.folder, error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
