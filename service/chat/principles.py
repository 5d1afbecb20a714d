"""Which principles a chat is answered by: those of the constitution in effect, where the request or the policy says so.

A policy that can't be followed is an error, never a reply that nobody looked at.
"""

from __future__ import annotations

from service.chat.constitutional import Rules
from service.chat.request import ChatRequest
from service.constitution.versions import Version, built_in_version, stored_version
from service.errors import BadInput, ConstitutionUnusable
from service.settings import ConstitutionSettings
from service.store.queries import constitutions
from service.store.tables import ConstitutionRow
from service.transactions import Transactions

FIELD = "hone.constitutional"
MEND = "Upgrade Hone, or put another in effect: `hone constitution import FILE`."


def version_of(row: ConstitutionRow | None) -> Version:
    """That of the store's row; None: the one that comes with Hone. Raises ConstitutionUnusable."""
    try:
        return stored_version(row.name, row.text) if row is not None else built_in_version()
    except BadInput as error:
        raise ConstitutionUnusable(error.message, MEND) from error


def problem_of(row: ConstitutionRow | None, settings: ConstitutionSettings) -> str | None:
    """Which chats get `constitution_unusable` while `row` is in effect, why, and what to do about it; None: none do."""
    if settings.serve == "never":
        return None
    try:
        _rules_of(version_of(row), settings)
    except ConstitutionUnusable as error:
        which = "Every chat gets" if settings.serve == "always" else "Chats that ask for the constitution get"
        return f"{which} 503 {error.code}: {error}"
    return None


def _rules_of(version: Version, settings: ConstitutionSettings) -> Rules:
    try:
        return Rules.of(version, settings)
    except BadInput as error:
        raise ConstitutionUnusable(f"{version.name}: {error.message}", error.hint) from error


class Principles:
    def __init__(self, settings: ConstitutionSettings, transactions: Transactions) -> None:
        self.settings, self._transactions = settings, transactions

    async def in_effect(self) -> Version:
        """Raises ConstitutionUnusable."""
        return version_of(await self._transactions.read(constitutions.in_effect))

    async def problem(self) -> str | None:
        """As `problem_of` says. Raises StoreError."""
        return problem_of(await self._transactions.read(constitutions.in_effect), self.settings)

    async def wanted(self, request: ChatRequest) -> Rules | None:
        """What a request, or else the policy, asks for; None: a reply as the engine gives it.

        Raises BadInput for a request that can't be obeyed, ConstitutionUnusable.
        """
        if not self._is_wanted(request):
            return None
        self._check(request)
        return _rules_of(await self.in_effect(), self.settings)

    def _is_wanted(self, request: ChatRequest) -> bool:
        asked, serve = request.asks_for_principles, self.settings.serve
        if asked and serve == "never":
            why = "An operator may set constitution.serve; else leave it out."
            raise BadInput(f"{FIELD}: this service doesn't answer by its constitution.", why, param=FIELD)
        if asked is False and serve == "always":
            raise BadInput(f"{FIELD}: this service answers every chat by its constitution.", "Leave it out.",
                           param=FIELD)  # fmt: skip
        return bool(asked) or serve == "always"

    def _check(self, request: ChatRequest) -> None:
        refused = {"n": (request.n or 1) > 1, "best_of": (request.best_of or 1) > 1, "logprobs": request.logprobs}
        for name, is_asked in refused.items():
            if is_asked:
                has = "it has no log-probabilities" if name == "logprobs" else "it is one"
                why = f"Leave {name} out" + ("." if self.settings.serve == "always" else f", or {FIELD}.")
                raise BadInput(f"{name}: a reply may be revised by the constitution, so {has}.", why, param=name)
