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
from service.transactions import Transactions

FIELD = "hone.constitutional"
MEND = "Put one in effect that this Hone can use: `hone constitution import FILE`."


class Principles:
    def __init__(self, settings: ConstitutionSettings, transactions: Transactions) -> None:
        self.settings, self._transactions = settings, transactions

    async def in_effect(self) -> Version:
        """Raises ConstitutionUnusable."""
        row = await self._transactions.read(constitutions.in_effect)
        try:
            return stored_version(row.name, row.text) if row is not None else built_in_version()
        except BadInput as error:
            raise ConstitutionUnusable(error.message, MEND) from error

    async def wanted(self, request: ChatRequest) -> Rules | None:
        """What a request, or else the policy, asks for; None: a reply as the engine gives it.

        Raises BadInput for a request that can't be obeyed, ConstitutionUnusable.
        """
        if not self._is_wanted(request):
            return None
        self._check(request)
        version = await self.in_effect()
        try:
            return Rules.of(version, self.settings)
        except BadInput as error:
            raise ConstitutionUnusable(f"{version.name}: {error.message}", MEND) from error

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
