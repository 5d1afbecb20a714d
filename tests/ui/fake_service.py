"""A small service that speaks the contract of the real one, for tests of the pages: canned replies, state in memory.

`FakeService.broken` makes it fail the way the real one does; everything it was told is on record, by caller.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

REPLIES = ("It is a **fine** day, and `2 + 2` makes 4.", "A rather different answer, in *other* words:\n\n- one\n- two")
OPERATOR = "the-operator"
AS_IT_COMES = "title = 'As it comes'"
STAGES: tuple[dict[str, Any], ...] = (
    {"stage": "draft", "round": 0, "principle": "", "text": "Take a "},
    {"stage": "draft", "round": 0, "principle": "", "text": "pin."},
    {"stage": "critique", "round": 1, "principle": "no-harm", "text": "It helps to do harm."},
    {"stage": "revision", "round": 1, "principle": "no-harm", "text": "It is a"},
    {"stage": "decided", "constitution": "c1", "revised": True, "ended": "revised"},
)
"""What a reply by principles tells of before it comes."""
REVISION: dict[str, Any] = {
    "round": 1,
    "constitution": "c1",
    "constitution_sha256": "0" * 64,
    "principle": "no-harm",
    "critique": "It helps to do harm.",
    "before": "Take a pin.",
    "after": None,
    "ended": "revised",
    "problem": "",
    "seconds": 0.5,
}


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str) -> None:
        self.status, self.message, self.code = status, message, code


def now() -> str:
    return datetime.now(UTC).isoformat()


def fake_run(name: str, state: str, **fields: Any) -> dict[str, Any]:
    """A run as the API shows it."""
    return {
        "id": name,
        "state": state,
        "trigger": "command",
        "method": "auto",
        "attempt": 1,
        "created_at": now(),
        "started_at": now(),
        "finished_at": None if state == "running" else now(),
        "phase": "train",
        "step": 0,
        "steps": 20,
        "parent": None,
        "adapter": None,
        "snapshot_hash": None,
        "message": "",
        **fields,
    }


def fake_adapter(name: str, state: str, **fields: Any) -> dict[str, Any]:
    """An adapter as the API shows it."""
    event = {"at": now(), "adapter": name, "action": state, "actor": "rollout", "reason": f"Is {state} now."}
    return {
        "name": name,
        "state": state,
        "parent": None,
        "run_id": None,
        "created_at": now(),
        "requested": False,
        "loaded": state in ("live", "canary"),
        "reason": f"Is {state} now.",
        "report": {},
        "history": [event],
        **fields,
    }


def fake_constitution(name: str, text: str) -> dict[str, Any]:
    """A constitution as the API shows it."""
    principles = [
        {"name": name, "rule": f"Be {name}.", "tags": ["harmless"], "weight": 2.0} for name in ("no-harm", "true")
    ]
    about = {"name": name, "sha256": f"{name}-sha", "title": "Helpful, honest, harmless", "text": text}
    return {**about, "principles": principles, "serve": "asked", "is_new": name != "c0"}


@dataclass
class FakeService:
    pace: float = 0.0  # seconds between two tokens
    hold_stage: str = ""  # a reply by principles waits in this stage for as long as this is set
    hold_at: int | None = None  # a stream waits before its so-manieth token for as long as this is set
    replies: tuple[str, ...] = REPLIES
    broken: str = ""  # "engine": no reply begins; "midway": each breaks after three tokens; "truncated": no [DONE]
    refuses_feedback: bool = False
    holds_feedback: bool = False  # no feedback is answered for as long as this is set
    holds_exchanges: bool = False  # none is shown for as long as this is set
    commit: float | None = 0.2  # seconds until what was stopped is stored; None: it never is
    context: int = 10_000  # tokens
    tells_context: bool = True
    policy: str = "asked"  # which chats are answered by the constitution
    keys_only: bool = False
    sessions: int = 0
    exchanges: dict[str, dict[str, Any]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    feedback: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    acted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    serving: dict[str, Any] = field(
        default_factory=lambda: {
            "live": "base",
            "previous": None,
            "requested": None,
            "canary": None,
            "canary_share": 0.0,
        }
    )
    constitution: dict[str, Any] = field(default_factory=lambda: fake_constitution("c0", AS_IT_COMES))
    unusable: str = ""  # why the constitution in effect can't be used
    constitutions: list[dict[str, Any]] = field(default_factory=list)  # newest first
    closed_streams: int = 0

    def caller(self, request: Request) -> str:
        token = request.cookies.get("hone_session") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if not token and self.keys_only:
            raise Refused(401, "This service asks for a key.", "invalid_api_key")
        if token == "stale":
            raise Refused(401, "That session is not known here.", "invalid_api_key")
        return token or "name:local"

    def operator(self, request: Request) -> None:
        if self.caller(request) != OPERATOR:
            raise Refused(403, "Operators only. Open the operator link that `hone up` printed.", "forbidden")

    def own(self, request: Request, owned: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
        if name not in owned or self.owners[name] != self.caller(request):
            raise Refused(404, f"There is no {name} of yours.", "not_found")
        return owned[name]

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.exception_handler(Refused)
        async def refused(request: Request, error: Refused) -> JSONResponse:
            body = {"message": error.message, "type": "error", "param": None, "code": error.code}
            return JSONResponse({"error": body}, error.status)

        _chat_routes(app, self)
        _feedback_routes(app, self)
        _operator_routes(app, self)
        _constitution_routes(app, self)
        return app


def _chat_routes(app: FastAPI, fake: FakeService) -> None:
    @app.post("/v1/sessions")
    async def session() -> dict[str, str]:
        if fake.keys_only:
            raise Refused(401, "This service asks for a key.", "invalid_api_key")
        fake.sessions += 1
        return {"token": f"browser-{fake.sessions}", "caller": f"browser:{fake.sessions}"}

    @app.get("/v1/whoami")
    async def whoami(request: Request) -> dict[str, str]:
        caller = fake.caller(request)
        return {"caller": caller, "role": "operator" if caller == OPERATOR else "user"}

    @app.get("/operator")
    async def exchange_key(key: str = "") -> Response:
        if key != "right":
            raise Refused(401, "That key is not known.", "invalid_api_key")
        response = Response(status_code=303, headers={"Location": "/operator"})
        response.set_cookie("hone_session", OPERATOR, httponly=True, samesite="lax")
        return response

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        caller, body = fake.caller(request), await request.json()
        fake.asked.append({"caller": caller, **body})
        if fake.broken == "engine":
            raise Refused(503, "The engine is away. It is being restarted.", "engine_unavailable")
        if (tokens := _tokens(body["messages"])) >= fake.context:
            raise Refused(
                400, f"The prompt has {tokens} tokens; the context holds {fake.context}.", "context_length_exceeded"
            )
        exchange_id = f"chatcmpl-{len(fake.asked)}"
        conversation = body["hone"]["conversation_id"]  # the pages always send one
        stream = _stream(fake, caller, exchange_id, conversation, body)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Hone-Conversation": conversation})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        context = fake.context if fake.tells_context else None
        return {"data": [{"id": "hone", "max_model_len": context, "constitutional": fake.policy}]}

    @app.get("/v1/exchanges/{exchange_id}")
    async def exchange(request: Request, exchange_id: str) -> dict[str, Any]:
        while fake.holds_exchanges:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        return fake.own(request, fake.exchanges, exchange_id)


def _tokens(messages: list[dict[str, str]]) -> int:
    """As if two characters were a token."""
    return sum(len(message["content"]) for message in messages) // 2


async def _stream(
    fake: FakeService, caller: str, exchange_id: str, conversation: str, body: dict[str, Any]
) -> AsyncIterator[str]:
    def event(index: int, delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        answer = {"id": exchange_id, "system_fingerprint": fake.serving["live"], "choices": [choice]}
        return f"data: {json.dumps(answer)}\n\n"

    owners, exchanges = fake.owners, fake.exchanges  # a test that comes later has others

    def store(said: list[str], finish: str | None) -> None:
        owners[exchange_id] = caller
        exchanges[exchange_id] = {
            "id": exchange_id,
            "conversation_id": conversation,
            "adapter": fake.serving["live"],
            "messages": body["messages"],
            "replies": [{"index": i, "text": text, "finish_reason": finish} for i, text in enumerate(said)],
            "revisions": [REVISION | {"after": said[0]}] if body["hone"].get("constitutional") else [],
        }

    told = STAGES if body["hone"].get("constitutional") else ()
    for place, stage in enumerate(told, start=1):
        is_last = all(later["stage"] != stage["stage"] for later in told[place:])
        answer = {"id": exchange_id, "system_fingerprint": fake.serving["live"], "hone": stage}
        yield f"data: {json.dumps(answer | {'choices': [{'index': 0, 'delta': {}, 'finish_reason': None}]})}\n\n"
        while is_last and fake.hold_stage == stage["stage"]:  # noqa: ASYNC110  # the test that lets go lives in another thread
            await asyncio.sleep(0.01)
    count, sent = body.get("n", 1), 0
    texts = [fake.replies[(len(fake.asked) - 1 + i) % len(fake.replies)] for i in range(count)]
    try:
        for index in range(count):
            yield event(index, {"role": "assistant", "content": ""})
        for at in range(max(map(len, texts))):
            if fake.broken == "midway" and at == 3:
                yield 'data: {"error": {"message": "The engine stopped in mid-reply.", "code": "engine_error"}}\n\n'
                return
            if fake.broken == "truncated" and at == 3:
                return
            while fake.hold_at == at:  # noqa: ASYNC110  # the test that lets go lives in another thread
                await asyncio.sleep(0.01)
            for index, text in enumerate(texts):
                if at < len(text):
                    yield event(index, {"content": text[at]})
            sent = at + 1
            await asyncio.sleep(fake.pace)
        for index in range(count):
            yield event(index, {}, "stop")
        store(texts, "stop")
        usage = {"prompt_tokens": _tokens(body["messages"])}
        ending = {"id": exchange_id, "system_fingerprint": fake.serving["live"], "choices": [], "usage": usage}
        yield f": kept alive\n\ndata: {json.dumps(ending)}\n\ndata: [DONE]\n\n"
    except asyncio.CancelledError:
        fake.closed_streams += 1
        if sent and fake.commit is not None:
            asyncio.get_running_loop().call_later(fake.commit, store, [text[:sent] for text in texts], None)
        raise


def _feedback_routes(app: FastAPI, fake: FakeService) -> None:
    def check(request: Request, feedback: dict[str, Any]) -> None:
        refs = [feedback["a"], feedback["b"]] if feedback["kind"] == "comparison" else [feedback]
        exchanges = [fake.own(request, fake.exchanges, ref["exchange_id"]) for ref in refs]
        if any(exchange["messages"] != exchanges[0]["messages"] for exchange in exchanges):
            raise Refused(400, "The replies answer different messages, so they can't be compared.", "invalid_request")
        for ref, exchange in zip(refs, exchanges, strict=True):
            if feedback["kind"] == "correction" and feedback["text"] == exchange["replies"][ref["index"]]["text"]:
                raise Refused(400, "The correction equals the reply.", "invalid_request")

    @app.post("/v1/feedback", status_code=201)
    async def give(request: Request) -> dict[str, Any]:
        feedback = await request.json()
        while fake.holds_feedback:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        if fake.refuses_feedback:
            raise Refused(503, "The store is busy. Try again in a moment.", "unavailable")
        check(request, feedback)
        name = f"fb-{len(fake.feedback) + 1}"
        fake.owners[name] = fake.caller(request)
        stored = {"id": name, "created_at": now(), "updated_at": now(), "withdrawn": False, "feedback": feedback}
        fake.feedback[name] = {**stored, "learned_in": [], "considered": False}
        return fake.feedback[name]

    @app.get("/v1/feedback/stats")
    async def stats(request: Request) -> dict[str, Any]:
        fake.operator(request)
        given = list(fake.feedback.values())
        kinds = [stored["feedback"]["kind"] for stored in given]
        return {
            "total": len(given),
            "withdrawn": sum(stored["withdrawn"] for stored in given),
            "by_kind": {kind: kinds.count(kind) for kind in kinds},
            "people": len({fake.owners[stored["id"]] for stored in given}),
            "since_last_run": len(given),
        }

    @app.get("/v1/feedback")
    async def mine(request: Request, after: str | None = None, limit: int = 20) -> dict[str, Any]:
        caller = fake.caller(request)
        own = [stored for name, stored in reversed(fake.feedback.items()) if fake.owners[name] == caller]
        start = next((i + 1 for i, stored in enumerate(own) if stored["id"] == after), 0)
        page = own[start : start + limit]
        return {"data": page, "next": page[-1]["id"] if start + limit < len(own) else None}

    @app.put("/v1/feedback/{name}")
    async def change(request: Request, name: str) -> dict[str, Any]:
        stored = fake.own(request, fake.feedback, name)
        if stored["withdrawn"]:
            raise Refused(409, "That feedback was withdrawn.", "conflict")
        feedback = await request.json()
        check(request, feedback)
        stored.update(feedback=feedback, updated_at=now())
        return stored

    @app.delete("/v1/feedback/{name}")
    async def withdraw(request: Request, name: str) -> dict[str, Any]:
        stored = fake.own(request, fake.feedback, name)
        stored["withdrawn"] = True
        return stored


def listed(report: dict[str, Any]) -> dict[str, Any]:
    """As much of a report as the service's list has."""
    return {name: report[name] for name in ("share_won", "pairs") if name in report}


def _operator_routes(app: FastAPI, fake: FakeService) -> None:
    def adapter(name: str) -> dict[str, Any]:
        if name not in fake.adapters:
            raise Refused(404, f"There is no adapter {name}.", "not_found")
        return fake.adapters[name]

    def go_live(name: str, reason: str) -> None:
        for other in fake.adapters.values():
            if other["state"] in ("live", "canary"):
                other.update(state="retired", reason="Another one is live.")
        if name != "base":
            adapter(name).update(state="live", reason=reason)
        fake.serving.update(live=name, previous=fake.serving["live"], canary=None, canary_share=0.0)

    @app.get("/v1/serving")
    async def serving(request: Request) -> dict[str, Any]:
        fake.operator(request)
        return fake.serving

    @app.get("/v1/adapters")
    async def adapters(request: Request) -> list[dict[str, Any]]:
        fake.operator(request)
        return [{**adapter, "history": [], "report": listed(adapter["report"])} for adapter in fake.adapters.values()]

    @app.get("/v1/adapters/{name}")
    async def one_adapter(request: Request, name: str) -> dict[str, Any]:
        fake.operator(request)
        return adapter(name)

    @app.post("/v1/adapters/rollback")
    async def rollback(request: Request) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        fake.acted.append(("rollback", body))
        go_live(body.get("to") or fake.serving["previous"] or "base", body["reason"])
        return fake.serving

    @app.delete("/v1/adapters/canary")
    async def end_canary(request: Request) -> dict[str, Any]:
        fake.operator(request)
        fake.acted.append(("end_canary", {}))
        adapter(fake.serving["canary"]).update(state="candidate")
        fake.serving.update(canary=None, canary_share=0.0)
        return fake.serving

    @app.post("/v1/adapters/{name}/{action}")
    async def act(request: Request, name: str, action: str) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        chosen = adapter(name)
        fake.acted.append((action, {"name": name, **body}))
        if action == "promote":
            go_live(name, body["reason"])
        elif action == "reject":
            chosen.update(state="rejected", reason=body["reason"])
        else:
            chosen.update(state="canary", reason=body["reason"])
            fake.serving.update(canary=name, canary_share=body["share"])
        return chosen

    @app.get("/v1/runs")
    async def runs(request: Request) -> dict[str, Any]:
        fake.operator(request)
        return {"data": list(reversed(fake.runs.values())), "next": None}

    @app.post("/v1/runs", status_code=202)
    async def learn(request: Request) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        fake.acted.append(("learn", body))
        name = f"run-{len(fake.runs) + 1}"
        fake.runs[name] = fake_run(name, "running", method=body.get("method", "auto"))
        fake.metrics[name] = []
        return fake.runs[name]

    @app.get("/v1/runs/{name}/metrics")
    async def metrics(request: Request, name: str) -> list[dict[str, Any]]:
        fake.operator(request)
        return fake.metrics.get(name, [])

    @app.post("/v1/runs/{name}/cancel")
    async def cancel(request: Request, name: str) -> dict[str, Any]:
        fake.operator(request)
        fake.acted.append(("cancel", {"name": name}))
        fake.runs[name].update(state="cancelled", finished_at=now(), message="Cancelled by an operator.")
        return fake.runs[name]


def _constitution_routes(app: FastAPI, fake: FakeService) -> None:
    def sound(text: str) -> None:
        if "principles" not in text:
            raise Refused(400, "The constitution is wrong: principles: is missing.", "invalid_request")

    @app.get("/v1/constitution")
    async def constitution(request: Request) -> dict[str, Any]:
        fake.operator(request)
        if fake.unusable:
            raise Refused(503, fake.unusable, "constitution_unusable")
        return fake.constitution

    @app.get("/v1/constitution/versions")
    async def versions(request: Request) -> list[dict[str, Any]]:
        fake.operator(request)
        return [one | {"text": ""} for one in fake.constitutions]

    @app.get("/v1/constitution/versions/{name}")
    async def version(request: Request, name: str) -> dict[str, Any]:
        fake.operator(request)
        return next(one for one in (*fake.constitutions, fake_constitution("c0", AS_IT_COMES)) if one["name"] == name)

    @app.post("/v1/constitution/check")
    async def check(request: Request) -> dict[str, Any]:
        fake.operator(request)
        text = (await request.json())["text"]
        sound(text)
        return fake_constitution("", text)

    @app.put("/v1/constitution")
    async def put(request: Request) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        sound(body["text"])
        name = f"c{len(fake.constitutions) + 1}"
        fake.constitution = fake_constitution(name, body["text"])
        about = {"name": name, "sha256": f"{name}-sha", "created_at": now(), "created_by": "olga"}
        fake.constitutions.insert(0, {**about, "note": body["note"], "text": body["text"]})
        return fake.constitution

    @app.post("/v1/constitution/try")
    async def attempt(request: Request) -> dict[str, Any]:
        fake.operator(request)
        body = await request.json()
        fake.acted.append(("try", body))
        found = {"critique": "It helps to do harm.", "revision": "I will not.", "verdict": "revision", "problem": ""}
        none = {"critique": "Nothing is wrong.", "revision": None, "verdict": None, "problem": ""}
        trials: list[dict[str, Any]] = [{"principle": "no-harm", **found}, {"principle": "true", **none}]
        shown = [one for one in trials if body["principle"] in (None, one["principle"])]
        about = {"constitution": "", "sha256": "0" * 64, "adapter": "base", "prompt": body["prompt"]}
        return {**about, "draft": "Take a pin.", "trials": shown}
