"""What is installed, reachable and writable, and what to do about what is not: the checks of `hone doctor`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from service.adapters.fingerprint import base_fingerprint
from service.adapters.health import examine_adapters
from service.adapters.replacement import replacement
from service.auth import is_loopback, trusts_loopback
from service.constitution.versions import built_in_version, stored_version
from service.engine_checks import template_problem, weights_problem
from service.engine_findings import examine_engine
from service.engine_program import find_vllm_python
from service.errors import BadInput, HoneError, PortInUse, SettingsError
from service.installed import LEARNER_EXTRA
from service.listening import listen
from service.service_health import health_at
from service.settings import Settings, available_cores, check_rank
from service.store.queries import constitutions, keys, serving
from service.store.session import Store

LEAST_FREE_BYTES = 500_000_000
ABSENT = "not installed"
NEEDED = ("fastapi", "gradio", "sqlalchemy")
SETUP = "Run `make setup`, or `pip install .` in the project's folder."
FOR_THE_LEARNER = ("torch", "transformers", "peft", "safetensors", "apscheduler")
OPTIONAL = {"bitsandbytes": "training against a base in 4 bits: pip install '.[nf4]'"}
MACHINE_SECONDS = 120.0
"""How long torch may take to say what it finds here: it is slow to import."""
_PARTS = ("store", "engine", "live", "constitution", "pages")  # of what `/health` tells


@dataclass(frozen=True)
class Finding:
    """`ok` None: neither good nor bad, only worth knowing. `advice`: what to do about what is not good."""

    check: str
    ok: bool | None
    found: str
    advice: str = ""


def _verdict(check: str, ok: bool, found: str, advice: str) -> Finding:
    return Finding(check, ok, found, "" if ok else advice)


def examine(
    settings: Settings, own: str | None = None, elsewhere: bool = False, engines: Sequence[str] = ()
) -> Iterator[Finding]:
    """One finding a check. A check that breaks is a finding, too.

    `own`: where the `hone up` of this home listens, and `engines`: where its engines do, if it runs; `elsewhere`: look
    where the settings say all the same.
    """

    url = settings.server.local_url if elsewhere or own is None else own
    health = health_at(url, None if elsewhere else settings.home)

    def address(settings: Settings) -> Iterator[Finding]:
        return _address(settings, url, own, health)

    def engine(settings: Settings) -> Iterator[Finding]:
        return _engine(settings, engines, health)

    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _home,
        _store,
        _adapters,
        _constitution,
        _model,
        _rank,
        _processes,
        address,
        engine,
    )
    for check in checks:
        try:
            yield from check(settings)
        except HoneError as error:
            yield Finding(check.__name__.strip("_"), False, error.message, error.hint)


def _python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield _verdict("python", sys.version_info >= (3, 11), version, "Install Python 3.11 or newer.")
    yield Finding("cores", None, str(os.cpu_count()))


def _packages(settings: Settings) -> Iterator[Finding]:
    for name in NEEDED:
        version = _version(name)
        yield _verdict(name, version is not None, version or ABSENT, SETUP)
    is_service_alone = bool(settings.engine.urls) and _version("torch") is None
    for name in FOR_THE_LEARNER:
        version = _version(name)
        advice = f"The learner and the embedded engine need it: {LEARNER_EXTRA}."
        ok = None if is_service_alone else version is not None
        yield Finding(name, ok, version or ABSENT, "" if version else advice)
    if version := _version("torchvision"):
        yield Finding("torchvision", None, version, "If models don't load, remove it: Hone doesn't need it.")
    for name, use in OPTIONAL.items():
        version = _version(name)
        yield Finding(name, None, version or ABSENT, "" if version else use)
    try:
        yield Finding("vllm", None, _version("vllm") or f"by {find_vllm_python(settings.engine)}")
    except SettingsError:
        yield Finding("vllm", None, ABSENT, "a faster engine on a GPU")


def _version(package: str) -> str | None:
    """None when it is not installed."""
    if importlib.util.find_spec(package) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # it came with a distribution of another name, as vLLM's CPU build does
        return "installed"


def _home(settings: Settings) -> Iterator[Finding]:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    advice = "Choose another one with --home."
    if folder.is_dir():
        yield _verdict("home", os.access(folder, os.W_OK), str(settings.home), advice)
    else:
        yield Finding("home", False, f"{settings.home}: {folder} is a file, not a folder", advice)
    free = shutil.disk_usage(folder).free
    yield _verdict("free disk", free >= LEAST_FREE_BYTES, f"{free / 1e9:.1f} GB", "Free some space.")


def _store(settings: Settings) -> Iterator[Finding]:
    if not settings.store_is_made:
        yield Finding("store", None, "not made yet", "The first start makes it.")
        return
    with closing(Store.open(settings.store_url, checkpoints=False)) as store, store.read() as tx:
        live, active = serving.desired_state(tx).live, sum(key.revoked_at is None for key in keys.list_keys(tx))
        replaced = replacement(tx, settings.adapters_folder)
    yield Finding("store", True, f"{store.url.render_as_string()}; live: {live}")
    if replaced is not None:
        yield Finding("adapters", False, replaced)
    advice = "Make one: `hone keys create --role operator --name YOU`."
    is_open = trusts_loopback(settings.server)
    found = f"{active} in force" + ("; callers on this machine need none: server.require_keys" if is_open else "")
    yield _verdict("keys", is_open or active > 0, found, advice)


def _adapters(settings: Settings) -> Iterator[Finding]:
    for found in examine_adapters(settings):
        yield Finding(*found)


def _constitution(settings: Settings) -> Iterator[Finding]:
    """Whether the one in effect can be read, as after a downgrade it may not be, and has principles to serve by."""
    version = built_in_version()
    if settings.store_is_made:
        with closing(Store.open(settings.store_url, checkpoints=False)) as store, store.read() as tx:
            row = constitutions.in_effect(tx)
        try:
            version = stored_version(row.name, row.text) if row is not None else version
        except BadInput as error:
            found = f"{error.message.rstrip('.')}; chats that are to be answered by it get 503"
            yield Finding("constitution", False, found, "Upgrade Hone, or `hone constitution import FILE`.")
            return
    served = version.constitution.tagged(settings.constitution.tags)
    found = f"{version.name}, {len(served)} principles to serve by; constitution.serve: {settings.constitution.serve}"
    yield Finding("constitution", True, found)


def _model(settings: Settings) -> Iterator[Finding]:
    try:
        digest = base_fingerprint(settings.model_path)
    except BadInput as error:
        if not settings.engine.urls or settings.learner.quantise != "none":
            raise
        yield Finding("model", None, error.message, "The engines have their own; only a learner here would need it.")
        return
    yield Finding("model", True, f"{settings.engine.model} ({digest[:12]})")
    if (problem := weights_problem(settings)) is not None:
        yield Finding("weights", False, problem.what, problem.mend)
    if (problem := template_problem(settings)) is not None:
        yield Finding("chat template", False, problem.what, problem.mend)


def _rank(settings: Settings) -> Iterator[Finding]:
    check_rank(settings)
    yield Finding("rank", True, f"{settings.learner.rank}; the engine takes up to {settings.engine.max_lora_rank}")


def _processes(settings: Settings) -> Iterator[Finding]:
    """Whether the processes of a training have a GPU each, or cores, and a way to talk to each other."""
    wanted, shared = settings.learner.processes, settings.learner.sharding != "none"
    if wanted == 1 or _version("torch") is None:
        return
    found = f"{wanted} share a training" + (", and the base" if shared else "")
    if _version("accelerate") is None:
        yield Finding("processes", False, f"{found}, which takes the package accelerate", f"{LEARNER_EXTRA}.")
        return
    machine = _machine()
    if machine is None:
        yield Finding("processes", False, f"{found}; torch doesn't say what there is here", "Try `import torch`.")
    elif (gpus := machine["gpus"]) and wanted > gpus:
        some = f"{gpus} GPU{'s' * (gpus > 1)}"
        yield Finding("processes", False, f"{found}; there are {some}", f"Set learner.processes to {gpus} at most.")
    elif not machine[by := "nccl" if gpus else "gloo"]:
        yield Finding("processes", False, f"{found}; this torch comes without {by}", "Install one that has it.")
    elif gpus:
        yield Finding("processes", True, f"{found}, with one of {gpus} GPUs each")
    else:
        cores = available_cores()
        advice = "More processes than cores wait for each other." if wanted > cores else ""
        yield Finding("processes", None, f"{found}, on the CPU: {cores} cores, no GPU", advice)


def _machine() -> dict[str, int] | None:
    """What `learner.machine` says; None when it can't. In a process of its own, since this one imports no torch."""
    command = [sys.executable, "-P", "-m", "learner.machine"]
    try:
        said = subprocess.run(command, capture_output=True, timeout=MACHINE_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    machine: dict[str, int] = json.loads(said)
    return machine


def _address(settings: Settings, url: str, own: str | None, health: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Whether Hone answers where it runs, or where the settings say it would; else whether that place is free.

    `health`: what the Hone at `url` says of itself.
    """
    taken = None
    own = url if own is not None and is_the_same(url, own) else own
    if url != own:
        try:
            listen(settings.server.host, settings.server.port).close()
            free = f"{url} is free" if settings.server.port else "any free port"
            yield Finding("address", True, f"{free}; Hone doesn't run there")
            return
        except PortInUse as error:
            taken = error
    logs = f"See {settings.home / 'logs'}."
    if health is not None:
        words = ", ".join(f"{part} {health[part]}" for part in _PARTS if part in health)
        whose = "" if url == own else ", not as the `hone up` of this home"
        status = health["status"]
        ok = {"ok": True, "degraded": None}.get(status, False)
        words = words if ok else f"{status}, {words}"
        is_in_logs = ok is False and health.get("constitution", "ok") == "ok"
        yield Finding("service", ok, f"Hone answers at {url}{whose}: {words}", logs if is_in_logs else "")
        yield from _rollout(health)
    elif taken is not None:
        yield Finding("address", False, f"{taken.message} It is not Hone that answers at {url}.", taken.hint)
    else:
        yield Finding("service", False, f"`hone up` runs over this home and doesn't answer at {url}", logs)


def is_the_same(one: str, other: str) -> bool:
    """Whether two addresses of this machine lead to one listener: its loopback has several names."""
    a, b = urlsplit(one), urlsplit(other)
    return a.port == b.port and (a.hostname == b.hostname or all(is_loopback(x.hostname or "") for x in (a, b)))


def _rollout(health: Mapping[str, Any]) -> Iterator[Finding]:
    """What holds the rollout up, but for engines that get no requests and a replaced adapter: others tell of those."""
    for problem in health.get("problems", ()):
        yield Finding("rollout", False, problem)
    if "problems" not in health and health["rollout"] != "ok":
        yield Finding("rollout", False, str(health["rollout"]), "Ask over the home of that service, which tells why.")


def _engine(settings: Settings, running: Sequence[str], health: Mapping[str, Any] | None) -> Iterator[Finding]:
    for found in examine_engine(settings, running, (health or {}).get("replicas", ())):
        yield Finding(*found)
