"""What is installed, reachable and writable, and what to do about what is not: the checks of `hone doctor`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

import httpx2

from service.adapters.fingerprint import base_fingerprint
from service.auth import is_loopback
from service.errors import HoneError, PortInUse
from service.listening import listen
from service.settings import Settings
from service.store.queries import adapters, keys
from service.store.session import Store

LEAST_FREE_BYTES = 500_000_000
NEEDED = ("torch", "transformers", "peft", "safetensors", "fastapi", "gradio", "sqlalchemy", "apscheduler")
OPTIONAL = {"bitsandbytes": "4-bit training on a GPU: pip install 'hone[gpu]'", "vllm": "a faster engine on a GPU"}


@dataclass(frozen=True)
class Finding:
    """`ok` None: neither good nor bad, only worth knowing. `advice`: what to do about it."""

    check: str
    ok: bool | None
    found: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """One finding a check. A check that breaks is a finding, too."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _home,
        _store,
        _model,
        _address,
        _engine,
    )
    for check in checks:
        try:
            yield from check(settings)
        except HoneError as error:
            yield Finding(check.__name__.strip("_"), False, error.message, error.hint)


def _python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= (3, 11), version, "Install Python 3.11 or newer.")
    yield Finding("cores", None, str(os.cpu_count()))


def _packages(settings: Settings) -> Iterator[Finding]:
    for name in NEEDED:
        found = importlib.util.find_spec(name) is not None
        version = metadata.version(name) if found else "not installed"
        yield Finding(name, found, version, "" if found else "Run `make setup`, or `pip install hone`.")
    if importlib.util.find_spec("torchvision") is not None:
        yield Finding("torchvision", None, "installed", "If models don't load, remove it: Hone doesn't need it.")
    for name, use in OPTIONAL.items():
        installed = importlib.util.find_spec(name) is not None
        yield Finding(name, None, metadata.version(name) if installed else "not installed", "" if installed else use)


def _home(settings: Settings) -> Iterator[Finding]:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    writable = os.access(folder, os.W_OK)
    yield Finding("home", writable, str(settings.home), "" if writable else "Choose another one with --home.")
    free = shutil.disk_usage(folder).free
    enough = free >= LEAST_FREE_BYTES
    yield Finding("free disk", enough, f"{free / 1e9:.1f} GB", "" if enough else "Free some space.")


def _store(settings: Settings) -> Iterator[Finding]:
    if settings.store.url is None and not (settings.home / "hone.db").exists():
        yield Finding("store", None, "not made yet", "The first start makes it.")
        return
    store = Store.open(settings.store_url, checkpoints=False)
    try:
        with store.read() as tx:
            live, active = adapters.serving(tx).live, sum(key.revoked_at is None for key in keys.list_keys(tx))
    finally:
        store.close()
    yield Finding("store", True, f"{store.url.render_as_string()}; live: {live}")
    needs_keys = not is_loopback(settings.server.host) and not active
    advice = "Make one: `hone keys create --role operator --name YOU`." if needs_keys else ""
    yield Finding("keys", not needs_keys, f"{active} in force", advice)


def _model(settings: Settings) -> Iterator[Finding]:
    digest = base_fingerprint(settings.model_path)
    yield Finding("model", True, f"{settings.engine.model} ({digest[:12]})")


def _address(settings: Settings) -> Iterator[Finding]:
    url = settings.server.local_url
    try:
        listen(settings.server.host, settings.server.port).close()
        yield Finding("address", True, f"{url} is free")
    except PortInUse as error:
        health = _get(f"{url}/health")
        if health is not None and '"rollout"' in health:
            yield Finding("service", '"status":"ok"' in health, f"{url} answers {health}")
        else:
            yield Finding("address", False, error.message, error.hint)


def _engine(settings: Settings) -> Iterator[Finding]:
    if settings.engine.url is None:
        yield Finding("engine", None, "embedded; `hone up` starts it")
        return
    answered = _get(f"{settings.engine.url}/v1/models")
    if answered is None:
        yield Finding("engine", False, f"{settings.engine.url} does not answer", "Start it, or correct engine.url.")
    else:
        yield Finding("engine", True, f"{settings.engine.url} answers")


def _get(url: str) -> str | None:
    try:
        return httpx2.get(url, timeout=5.0, trust_env=False).text
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return None
