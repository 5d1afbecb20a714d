"""The chat page: talk with what is live, and say what was good, bad, wrong or better.

The page's script (`theme/chat.js` and its parts) draws the conversation and sends named events; everything that
happens, happens in the handlers here, with the credentials of the request that brought the event. The browser keeps no
history: only the names of the exchanges it shows, in the page's address, so that a reload goes on where it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import gradio as gr

from ui.client import Credentials, ServiceClient, ServiceError
from ui.conversation import Conversation, Reply, Turn
from ui.drafting import draft
from ui.judging import compare, judge
from ui.restoring import restore
from ui.shelf import Shelf
from ui.theme import script

EXAMPLES = (
    "What can you do?",
    "What is the capital of Portugal?",
    "How do I make tea?",
    "Tell me a short story about a fox.",
    "What is 5 + 7?",
    "Tell me a joke.",
)
LABELS = ("wrong", "harmful", "off-topic", "too long", "too short", "unclear", "rude")
MAX_PROMPT = 20_000  # characters
SCRIPTS = ("composer.js", "editors.js", "revisions.js", "replies.js", "turns.js", "restart.js", "chat.js")
NO_SESSION = "This page has no session yet. Reload it; if that doesn't help, open it with your key (…/?key=YOUR-KEY)."

View = dict[str, Any]


def build(service: ServiceClient) -> gr.Blocks:
    page = ChatPage(service)
    start = Conversation()
    drawn = start.view()  # before it becomes the state: both count the same views
    with gr.Blocks(title="Hone", analytics_enabled=False, fill_width=True) as blocks:
        talk = gr.State(start)
        shelf = gr.State(Shelf())
        thread = gr.HTML(
            drawn,
            html_template="<div class='hone-chat'></div>",
            js_on_load=script(*SCRIPTS),
            apply_default_css=False,
            elem_id="chat",
            examples=list(EXAMPLES),
            labels=list(LABELS),
        )
        drawer = gr.HTML(
            Shelf().view(),
            html_template="<div class='hone-shelf'></div>",
            js_on_load=script("shelf.js"),
            apply_default_css=False,
            elem_id="shelf",
        )
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        for name in ("send", "retry"):
            getattr(thread, name)(getattr(page, name), talk, thread, trigger_mode="once", **quiet)
        for name in ("stop_reply", "new_chat", "restore", "pick", "thumb", "score", "mark", "critique", "correct"):
            getattr(thread, name)(getattr(page, name), talk, thread, trigger_mode="multiple", **quiet)
        drawer.withdraw(page.withdraw, [shelf, talk], [drawer, thread], trigger_mode="multiple", **quiet)
        for name in ("open_shelf", "more", "close_shelf"):
            source = thread if name == "open_shelf" else drawer
            getattr(source, name)(getattr(page, name), shelf, drawer, trigger_mode="multiple", **quiet)
    return blocks


class ChatPage:
    """The handlers. Each takes the state, the event (what the browser says: checked, never trusted) and the request."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    # -- talking ----------------------------------------------------------------------------------------------------

    async def send(self, talk: Conversation, event: gr.EventData, request: gr.Request) -> AsyncIterator[View]:
        """A new prompt; `pair` asks for two answers to pick from, `by_principles` for one that is revised."""
        if _is_lost(talk, event):
            yield talk.lost()
            return
        async with talk.judging:
            pass  # what is being said about the last reply, or drawn again, decides what the model is told
        prompt = _text(event, "text")
        if talk.busy or not prompt:
            yield talk.view()
            return
        if len(prompt) > MAX_PROMPT:
            talk.say(f"That is too long: {len(prompt):,} characters, and {MAX_PROMPT:,} are allowed.", "error")
            yield talk.view()
            return
        if talk.turns and talk.turns[-1].open:
            talk.turns[-1].settle("a")  # going on without a pick: with the first, and nothing is said about it
        pair = event._data.get("pair") is True
        talk.by_principles = event._data.get("by_principles") is True
        turn = Turn(prompt, chosen=None if pair else 0, compared=(0, 1) if pair else None, side_by_side=pair)
        talk.turns.append(turn)
        async for view in self._draft(talk, turn, 2 if pair else 1, request):
            yield view

    async def retry(self, talk: Conversation, event: gr.EventData, request: gr.Request) -> AsyncIterator[View]:
        """Another draft for the last prompt; the one before stays, so that the two can be compared."""
        if _is_lost(talk, event):
            yield talk.lost()
            return
        async with talk.judging:
            pass  # what is being said about the drafts so far is stored first
        if talk.busy or not talk.turns:
            yield talk.view()
            return
        turn, talk.by_principles = talk.turns[-1], event._data.get("by_principles") is True
        count, before = len(turn.replies), (turn.side_by_side, turn.comparison, turn.compared, turn.chosen)
        turn.side_by_side, turn.comparison, turn.compared, turn.chosen = False, None, None, count
        async for view in self._draft(talk, turn, 1, request):
            yield view
        if count and len(turn.replies) == count:  # no draft began: all is as it was
            turn.side_by_side, turn.comparison, turn.compared, turn.chosen = before
            yield talk.view()
        elif count and not turn.error:
            *_, shown = before
            turn.compared = (count, count - 1 if shown is None else shown)
            yield talk.view()

    async def _draft(self, talk: Conversation, turn: Turn, count: int, request: gr.Request) -> AsyncIterator[View]:
        try:
            who = credentials(request)
        except ServiceError as error:
            turn.error, turn.side_by_side, turn.compared = error.message, False, None
        else:
            async for _ in draft(self._service, who, talk, turn, count):
                yield talk.view()
        yield talk.view()

    async def stop_reply(self, talk: Conversation, event: gr.EventData) -> View:
        if _is_lost(talk, event):
            return talk.lost()
        if talk.stop is not None:
            talk.stop.set()
        return talk.view()

    async def new_chat(self, talk: Conversation, event: gr.EventData) -> View:
        if _is_lost(talk, event):
            return talk.lost()
        if talk.stop is not None:
            talk.stop.set()
        talk.id, talk.turns, talk.notice, talk.seen_from, talk.by_principles = None, [], "", "", False
        return talk.view()

    async def restore(self, talk: Conversation, event: gr.EventData, request: gr.Request) -> View:
        """A page that was opened or reloaded: its address says which conversation it showed, if any."""
        if _is_lost(talk, event):
            return talk.lost()
        trail = _text(event, "trail")
        async with talk.judging:  # what is sent meanwhile waits, and goes on with what is drawn again
            with suppress(ServiceError):  # chatting will say what is the matter
                talk.policy = await self._service.policy(credentials(request))
            if trail and not talk.turns and not talk.busy:
                try:
                    await restore(self._service, credentials(request), talk, trail)
                except ServiceError as error:
                    talk.say(error.message, "error")
        return talk.view()

    # -- judging ----------------------------------------------------------------------------------------------------

    async def thumb(self, talk: Conversation, event: gr.EventData, request: gr.Request) -> View:
        good = event._data.get("good")
        return await self._judge(talk, event, request, "thumb", {"good": good} if isinstance(good, bool) else None)

    async def score(self, talk: Conversation, event: gr.EventData, request: gr.Request) -> View:
        score = event._data.get("score")
        return await self._judge(talk, event, request, "score", {"score": score} if isinstance(score, int) else None)

    async def mark(self, talk: Conversation, event: gr.EventData, request: gr.Request) -> View:
        labels = event._data.get("labels")
        chosen = [label for label in LABELS if label in labels] if isinstance(labels, list) else []
        return await self._judge(talk, event, request, "label", {"labels": chosen} if chosen else None)

    async def critique(self, talk: Conversation, event: gr.EventData, request: gr.Request) -> View:
        text = _text(event, "text")
        thanks = "Thank you. The next run revises the reply by it, and learns from that." if text else "Taken back."
        return await self._judge(talk, event, request, "critique", {"text": text} if text else None, thanks)

    async def correct(self, talk: Conversation, event: gr.EventData, request: gr.Request) -> View:
        text = _text(event, "text")
        thanks = "Thank you. The conversation goes on with your version." if text else "Back to the original."
        return await self._judge(talk, event, request, "correction", {"text": text} if text else None, thanks)

    async def _judge(
        self,
        talk: Conversation,
        event: gr.EventData,
        request: gr.Request,
        kind: str,
        content: dict[str, Any] | None,
        thanks: str = "",
    ) -> View:
        if _is_lost(talk, event):
            return talk.lost()
        reply = talk.find_reply(str(event._data.get("reply")))
        try:
            async with talk.judging:
                await judge(self._service, credentials(request), _known(reply), kind, content)
        except ServiceError as error:
            talk.say(error.message, "error")
        else:
            if thanks:
                talk.say(thanks)
        return talk.view()

    async def pick(self, talk: Conversation, event: gr.EventData, request: gr.Request) -> View:
        """The verdict on two answers; `skip` goes on with the first and says nothing about them."""
        if _is_lost(talk, event):
            return talk.lost()
        turn, verdict = talk.find_turn(str(event._data.get("turn"))), str(event._data.get("verdict"))
        async with talk.judging:
            if turn is None or talk.busy:
                return talk.view()
            try:
                if verdict == "skip":
                    turn.settle("a")
                elif verdict == "undo":
                    await compare(self._service, credentials(request), turn, None)
                    turn.chosen = None if turn.side_by_side else turn.chosen
                else:
                    await compare(self._service, credentials(request), turn, verdict)
                    turn.settle(verdict)
            except ServiceError as error:
                talk.say(error.message, "error")
            return talk.view()

    # -- one's own feedback -----------------------------------------------------------------------------------------

    async def open_shelf(self, shelf: Shelf, request: gr.Request) -> View:
        shelf.start()
        return await self.more(shelf, request)

    async def more(self, shelf: Shelf, request: gr.Request) -> View:
        try:
            await shelf.load(self._service, credentials(request))
        except ServiceError as error:
            shelf.error = error.message
        return shelf.view()

    async def withdraw(
        self, shelf: Shelf, talk: Conversation, event: gr.EventData, request: gr.Request
    ) -> tuple[View, View]:
        if _is_lost(talk, event):
            return shelf.view(), talk.lost()
        feedback_id = str(event._data.get("id"))
        try:
            await shelf.withdraw(self._service, credentials(request), feedback_id)
        except ServiceError as error:
            shelf.error = error.message
        else:
            talk.forget(feedback_id)
        return shelf.view(), talk.view()

    async def close_shelf(self, shelf: Shelf) -> View:
        shelf.shown = False
        return shelf.view()


def credentials(request: gr.Request) -> Credentials:
    """The browser's own. Without any, the service would take every browser on this machine for one person."""
    who = Credentials.of(request.headers)
    if not who:
        raise ServiceError(NO_SESSION, 401)
    return who


def _is_lost(talk: Conversation, event: gr.EventData) -> bool:
    """Whether the page shows more than this server has drawn: it was restarted, or has dropped the page's state."""
    seen = event._data.get("seen")
    return isinstance(seen, int) and seen > talk.version


def _known(reply: Reply | None) -> Reply:
    if reply is None:
        raise ServiceError("That reply is no longer on this page. Reload it.")
    return reply


def _text(event: gr.EventData, name: str) -> str:
    value = event._data.get(name)
    return value.strip() if isinstance(value, str) else ""
