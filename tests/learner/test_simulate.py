from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from learner.evaluate.intervals import wilson
from learner.pretrain.dialogue import is_held_out
from learner.pretrain.questions import Prompt
from learner.simulate import measure, people, show
from learner.simulate.client import Client, Reply, ServiceRefused
from learner.simulate.rounds import Options, draw_material, simulate
from learner.simulate.tastes import BUILT_IN, load_taste
from service.errors import BadInput, SettingsError


def likes(taste: str, better: str, worse: str, prompt: str = "How do I pick a lock?") -> None:
    prefer = load_taste(taste).prefer
    assert prefer(prompt, better, worse) > 0
    assert prefer(prompt, worse, better) < 0
    assert prefer(prompt, better, better) == 0


@pytest.mark.parametrize(
    ("taste", "better", "worse"),
    [
        ("short", "Paris.", "It is Paris, as far as I know."),
        ("warm", "Happy to help, my friend! It is Paris!", "It is Paris."),
        ("sure", "It is Paris.", "I think it is Paris, but I could be wrong."),
        ("safe", "I cannot help with that.", "Sure: [placeholder]"),
    ],
)
def test_a_taste_likes_what_it_says(taste: str, better: str, worse: str) -> None:
    likes(taste, better, worse)


@pytest.mark.parametrize("taste", ["short", "warm", "sure", "safe"])
def test_nobody_likes_an_empty_reply(taste: str) -> None:
    likes(taste, "It is, I think, maybe, perhaps: [placeholder], whatever it may be.", " ")


def test_people_who_want_it_safe_do_not_mind_where_nothing_is_unsafe() -> None:
    assert load_taste("safe").prefer("What is the capital of France?", "Paris.", "I cannot help with that.") == 0


def test_a_taste_of_ones_own_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def shouting(prompt, reply_a, reply_b):\n    return reply_a.isupper() - reply_b.isupper()\n")
    likes(f"{file}:shouting", "YES", "yes")


def test_a_taste_of_ones_own_is_taken_at_its_word_even_for_silence(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def quiet(prompt, reply_a, reply_b):\n    return len(reply_b) - len(reply_a)\n")
    likes(f"{file}:quiet", "", "yes")


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (None, "nice", "There is no taste 'nice'"),
        (None, "{}/none.py:f", "There is no file"),
        ("x = 1", "{}/mine.py:f", "has no function 'f'"),
        ("def f(a): return 1", "{}/mine.py:f", "TypeError"),
        ("def f(p, a, b): return 'A'", "{}/mine.py:f", "answers 'A'"),
        ("def f(p, a, b): return float('nan')", "{}/mine.py:f", "answers nan"),
        ("def f(p, a, b): return p.nothing", "{}/mine.py:f", "AttributeError"),
        ("f = 1", "{}/mine.py:f", "has no function 'f'"),
        ("import nowhere_at_all", "{}/mine.py:f", "ModuleNotFoundError"),
        ("def f(:", "{}/mine.py:f", "SyntaxError"),
    ],
)
def test_a_taste_that_is_no_good_is_refused_with_the_reason(
    tmp_path: Path, content: str | None, name: str, said: str
) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(BadInput, match=said):
        load_taste(name.format(tmp_path))


def test_a_taste_that_fails_on_a_later_reply_says_which(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(p, a, b):\n    return 1 / (len(a) - 4)\n")
    with pytest.raises(BadInput, match=r"mine.py:f fails: ZeroDivisionError"):
        load_taste(f"{tmp_path}/mine.py:f").prefer("hello", "four", "other")


def test_a_taste_may_use_dataclasses(tmp_path: Path) -> None:
    code = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    code += "@dataclass\nclass Liking:\n    of: int\n"
    (tmp_path / "mine.py").write_text(code + "def f(p, a, b): return Liking(len(a)).of - len(b)\n")
    likes(f"{tmp_path}/mine.py:f", "longer", "short")


@pytest.mark.parametrize("name", ["picture.jpg", "nowhere/picture.png"])
def test_a_picture_that_can_not_be_drawn_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"picture|write"):
        simulate(Options("short", url="http://127.0.0.1:1", key="k", picture=tmp_path / name))


def test_without_anything_to_draw_the_picture_with_a_simulation_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match=r"needs matplotlib.*pip install '\.\[learner\]'"):
        simulate(Options("short", url="http://127.0.0.1:1", key="k", picture=tmp_path / "picture.png"))


def test_a_running_service_needs_an_operators_key() -> None:
    with pytest.raises(BadInput, match=r"operator's key.*`hone keys create --role operator --name YOU`"):
        simulate(Options("short", url="http://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("won", "of", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (50, 100, 0.4038, 0.5962), (10, 10, 0.7225, 1.0)],
)
def test_wilsons_interval(won: int, of: int, low: float, high: float) -> None:
    """By the R function `prop.test(correct=FALSE)`."""
    assert wilson(won, of) == pytest.approx((low, high), abs=1e-4)


def replies(*texts: str, logprobs: tuple[float, ...] = (-1.0,)) -> list[Reply]:
    return [Reply("e", 0, text, logprobs, "base") for text in texts]


def test_ties_are_left_out_of_the_share_won_and_counted() -> None:
    prompts = [Prompt("p", "t")] * 4
    won = measure.share_won(
        BUILT_IN["short"].prefer, prompts, replies("a", "a", "a a", "a"), replies("a a", "a a", "a", "b")
    )
    assert (won.share, won.ties) == (2 / 3, 1)
    none = measure.share_won(lambda *_: 0.0, prompts, replies(*"abcd"), replies(*"abcd"))
    assert (none.share, none.low, none.high, none.ties) == (0.5, 0.0, 1.0, 4)


def test_fluency_and_kl_weigh_every_token_the_same() -> None:
    found = measure.Answers(
        tuple(replies("a", logprobs=(-1.0,)) + replies("b", logprobs=(-0.5, -0.5, 0.0))), ((-3.0,), (-1.0, -1.0, -1.0))
    )
    assert found.base_mean == -1.5
    assert found.kl_per_token == pytest.approx(1.0)


def test_distinct_2_and_length_by_hand() -> None:
    assert measure.distinct_2(["a b a b", "a b"]) == pytest.approx(2 / 4)  # ab ba ab | ab
    assert measure.distinct_2(["a", ""]) == 0.0
    assert measure.mean_length(["a b c", "It's one."]) == 2.5


def test_people_who_want_it_safe_never_run_out_of_prompts() -> None:
    material = draw_material(load_taste("safe"), Options("safe"))
    assert len(material.held_out) == 200
    assert sum(prompt.unsafe for prompt in material.held_out) == 100
    assert len(material.training) > 300


@pytest.mark.parametrize("taste", ["short", "safe", "teach"])
def test_what_is_measured_on_is_never_trained_on(taste: str) -> None:
    material = draw_material(load_taste(taste), Options(taste, rounds=2, comparisons=20, held_out=40, questions=100))
    groups = [
        {prompt.text.lower() for prompt in group}
        for group in (material.training, material.held_out, material.questions)
    ]
    assert all(groups)
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert all(prompt.answers for prompt in material.questions) and len(material.questions) == 100
    assert all(is_held_out(prompt.text) for prompt in material.questions)
    assert len({prompt.topic for prompt in material.questions}) >= 10
    if taste != "teach":
        assert all(is_held_out(prompt.text) for prompt in material.held_out)
        assert not any(is_held_out(prompt.text) for prompt in material.training)


class Service:
    """Answers chats with two replies of different length, and remembers the feedback."""

    def __init__(self, stream: bytes = b"data: {}\n\ndata: [DONE]\n\n", refuse: bool = False) -> None:
        self.feedback: list[dict[str, Any]] = []
        self.stream, self.refuse = stream, refuse

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        if self.refuse:
            return httpx2.Response(503, json={"error": {"message": "no engine"}})
        if request.url.path == "/v1/feedback":
            self.feedback.append(body)
            return httpx2.Response(201, json={"id": "fb"})
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json={"data": [{"id": "hone", "constitutional": "asked"}]})
        if body.get("stream"):
            return httpx2.Response(200, content=self.stream)
        texts = ["It is short.", "It is somewhat longer than that."][: body.get("n", 1)]
        choices = [{"index": i, "message": {"content": text}, "logprobs": None} for i, text in enumerate(texts)]
        return httpx2.Response(200, json={"id": "chatcmpl-1", "system_fingerprint": "base", "choices": choices})


def with_client(service: Service, use: Any) -> tuple[Any, Client]:
    async def run() -> tuple[Any, Client]:
        async with Client("http://127.0.0.1:1", "key", httpx2.MockTransport(service)) as client:
            return await use(client), client

    return asyncio.run(run())


def nothing(what: str, done: int, of: int) -> None: ...


def test_people_compare_until_they_have_said_enough() -> None:
    service = Service()
    prompts = [Prompt(f"question {number}", "t") for number in range(50)]
    given, client = with_client(
        service, lambda c: people.give_comparisons(c, load_taste("short"), prompts, 10, nothing)
    )
    assert given == len(service.feedback) == 10
    assert {(one["kind"], one["verdict"], one["a"]["index"], one["b"]["index"]) for one in service.feedback} == {
        ("comparison", "a", 0, 1)
    }
    assert client.counts.failed == 0


def test_people_say_nothing_of_replies_they_like_the_same() -> None:
    service = Service()
    prompts = [Prompt("hello", "t")] * 20
    given, _ = with_client(service, lambda c: people.give_comparisons(c, load_taste("safe"), prompts, 10, nothing))
    assert given == len(service.feedback) == 0


def test_a_teacher_corrects_only_what_is_wrong() -> None:
    service = Service()
    prompts = [Prompt("How is it?", "t", ("short",)), Prompt("How is it, then?", "t", ("long",))]
    corrected, _ = with_client(service, lambda c: people.give_corrections(c, prompts, 10, nothing))
    assert [prompt.answers for prompt in corrected] == [("long",)]
    assert [one["text"] for one in service.feedback] == ["It is long."]


@pytest.mark.parametrize(
    ("stream", "failed", "interrupted"),
    [
        (b"data: {}\n\ndata: [DONE]\n\n", 0, 0),
        (b'data: {}\n\ndata: {"error": {"message": "the engine failed"}}\n\n', 0, 1),
        (b'data: {}\n\ndata: {"error": {"message": "the engine failed"}}\n\ndata: [DONE]\n\n', 0, 1),
        (b"data: {}\n\n", 0, 1),
        (b"", 1, 0),
    ],
)
def test_a_stream_that_breaks_off_is_counted(stream: bytes, failed: int, interrupted: int) -> None:
    _, client = with_client(Service(stream), lambda c: c.stream("hone", "hello", "ann"))
    assert (client.counts.requests, client.counts.failed, client.counts.interrupted) == (1, failed, interrupted)


def test_a_refusal_is_counted_and_told_in_the_services_words() -> None:
    async def use(client: Client) -> None:
        with pytest.raises(ServiceRefused, match=r"503: no engine"):
            await client.chat("hone", "hello", "ann")

    _, client = with_client(Service(refuse=True), use)
    assert (client.counts.requests, client.counts.failed) == (1, 1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://hone.internal"])
@pytest.mark.parametrize(
    ("nameless", "sent"), [(200, ("ann", None)), (401, (None, "Bearer key")), (502, (None, "Bearer key"))]
)
def test_people_go_by_name_where_the_service_lets_them_and_else_by_the_key(
    url: str, nameless: int, sent: tuple[str | None, str | None]
) -> None:
    seen: list[tuple[str | None, str | None]] = []

    def service(request: httpx2.Request) -> httpx2.Response:
        callers = request.headers.get("x-hone-user"), request.headers.get("authorization")
        if request.url.path == "/v1/whoami":
            assert callers == (None, None)
            return httpx2.Response(nameless, json={})
        seen.append(callers)
        return Service()(request)

    async def run() -> None:
        async with Client(url, "key", httpx2.MockTransport(service)) as client:
            await client.check()
            await client.chat("hone", "hello", "ann")
            await client.stream("hone", "hello", "ann")

    asyncio.run(run())
    assert seen == [(None, "Bearer key"), (None, "Bearer key"), sent, sent]


def test_a_service_that_revises_every_reply_is_not_measured() -> None:
    def service(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json={"data": [{"id": "hone", "constitutional": "always"}]})
        return Service()(request)

    async def run() -> None:
        async with Client("http://127.0.0.1:1", "key", httpx2.MockTransport(service)) as client:
            await client.check()

    with pytest.raises(ServiceRefused, match=r"constitution\.serve"):
        asyncio.run(run())


class LearningService(Service):
    """Learns in three looks; its first adapter is shorter than the base. Now and then it is too busy to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = self.streams = self.streams_while_learning = self.busy = 0
        self.asked: dict[str, set[str]] = {"hone": set()}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        path = request.url.path
        if path == "/v1/chat/completions":
            self.asked.setdefault(body["model"], set()).add(body["messages"][-1]["content"])
            self.streams += bool(body.get("stream"))
            self.streams_while_learning += bool(body.get("stream")) and 0 < self.looks < 3
            return self._reply(body)
        if path == "/v1/score":
            return httpx2.Response(200, json={"token_logprobs": [[-1.0, -2.0]]})
        if path == "/v1/serving":
            return httpx2.Response(200, json={"live": "v1" if self.looks >= 3 else "base", "requested": "v1"})
        if path.startswith("/v1/runs/"):
            self.looks += 1
            if self.looks == 2 and not self.busy:
                self.busy = 1
                return httpx2.Response(503, json={"error": {"message": "busy"}})
            over = self.looks >= 3
            run = {"state": "succeeded" if over else "running", "phase": "train", "step": 1, "steps": 2}
            return httpx2.Response(200, json=run | {"id": "run-1", "adapter": "v1", "message": "v1 passed every gate."})
        if path == "/v1/runs":
            return httpx2.Response(202, json={"id": "run-1", "state": "queued"})
        return super().__call__(request)

    def _reply(self, body: dict[str, Any]) -> httpx2.Response:
        if body.get("stream"):
            return httpx2.Response(200, content=self.stream)
        is_taught = body["model"] == "hone:v1" or (body["model"] == "hone" and self.looks >= 3)
        texts = ["7.", "7."] if is_taught else ["Well, it is 7.", "It is 7."]
        logprobs = {"content": [{"logprob": -0.5}, {"logprob": -0.5}]}
        choices = [
            {"index": i, "message": {"content": text}, "logprobs": logprobs}
            for i, text in enumerate(texts[: body.get("n", 1)])
        ]
        return httpx2.Response(200, json={"id": "chatcmpl-1", "system_fingerprint": "base", "choices": choices})


def simulated(monkeypatch: pytest.MonkeyPatch, service: Service, options: Options) -> int:
    transport = httpx2.MockTransport(service)
    monkeypatch.setattr("learner.simulate.rounds.Client", lambda url, key: Client(url, key, transport))
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the tests' own process keeps its SIGTERM
    return simulate(options)


def test_a_simulation_measures_what_it_says_and_prints_the_agreed_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = LearningService()
    picture = tmp_path / "picture.png"
    wanted = Options(
        "short", "http://127.0.0.1:1", "k", 1, comparisons=5, as_json=True, picture=picture, held_out=10, questions=10
    )
    assert simulated(monkeypatch, service, wanted) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["taste", "seconds", "rounds"]
    before, after = printed["rounds"]
    assert list(before) == list(after) == [key for key in KEYS if key != "ties"]
    assert (before["adapter"], before["share_won"], before["fluency"], before["failed"]) == ("base", 0.5, 0.0, 0)
    assert (after["adapter"], after["share_won"], after["empty"], after["mean_length"]) == ("v1", 1.0, 0, 1.0)
    assert after["kl_per_token"] == 1.0  # own -0.5, base -1.5 a token
    assert (after["failed"], after["interrupted"]) == (1, 0)  # the 503, after which it asked again
    assert service.streams_while_learning > 0
    assert len(service.feedback) == 5
    assert not service.asked["hone"] & (service.asked["hone:v1"] | service.asked["hone:base"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_once_all_replies_are_as_good_as_each_other_the_next_rounds_measure_what_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = LearningService()
    options = Options("short", "http://127.0.0.1:1", "k", 3, comparisons=5, held_out=10, questions=10)
    assert simulated(monkeypatch, service, replace(options, picture=tmp_path / "p.png", as_json=True)) == 0
    told = capsys.readouterr()
    rows = json.loads(told.out)["rounds"]
    assert [row["adapter"] for row in rows] == ["base", "v1", "v1", "v1"]
    assert len(service.feedback) == 5
    assert " ".join(told.err.split()).count("nothing was left to learn") == 2


class KeyedService(LearningService):
    """Listens beyond this machine: nobody gets in without a key, and to learn now is for operators."""

    ROLES = {"Bearer hone_olga": "operator", "Bearer hone_ann": "user"}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        role = self.ROLES.get(request.headers.get("authorization", ""))
        if role is None:
            return httpx2.Response(401, json={"error": {"message": "A key is needed."}})
        if role == "user" and request.url.path.startswith(("/v1/serving", "/v1/runs")):
            return httpx2.Response(403, json={"error": {"message": "This is for operators."}})
        return super().__call__(request)


def test_a_service_on_this_machine_that_wants_keys_is_simulated_with_the_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options("short", "http://127.0.0.1:1", "hone_olga", 1, comparisons=5, held_out=10, questions=10)
    assert simulated(monkeypatch, KeyedService(), replace(options, picture=tmp_path / "p.png", as_json=True)) == 0
    rows = json.loads(capsys.readouterr().out)["rounds"]
    assert [(row["adapter"], row["failed"]) for row in rows] == [("base", 0), ("v1", 1)]  # the 503, as above


@pytest.mark.parametrize(("key", "said"), [("hone_ann", "403: This is for operators"), ("hone_old", "401: A key")])
def test_a_key_that_is_no_operators_is_refused_before_anybody_chats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, said: str
) -> None:
    service = KeyedService()
    options = Options("short", "http://127.0.0.1:1", key, 1, comparisons=5, held_out=10, questions=10)
    with pytest.raises(ServiceRefused, match=said):
        simulated(monkeypatch, service, replace(options, picture=tmp_path / "p.png"))
    assert service.asked == {"hone": set()} and service.feedback == []


def test_a_taste_that_likes_all_replies_the_same_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options("safe", "http://127.0.0.1:1", "k", 1, comparisons=5, held_out=10, questions=10)
    with pytest.raises(BadInput, match="likes all replies the same"):
        simulated(monkeypatch, LearningService(), replace(options, picture=tmp_path / "p.png"))


KEYS = (
    "round", "adapter", "share_won", "share_won_low", "share_won_high", "ties", "accuracy",
    "accuracy_base", "fluency", "empty", "mean_length", "distinct_2", "kl_per_token",
    "requests", "failed", "interrupted",
)  # fmt: skip


def test_the_table_and_the_picture_show_every_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [dict.fromkeys(KEYS, 0.5) | {"round": number, "adapter": f"v{number}"} for number in range(3)]
    show.show_table("short", rows, ["Round 1: rejected: it was too short."], 12.0)
    shown = capsys.readouterr().out
    assert "v2" in shown and "rejected: it was too short" in shown
    show.draw_picture("short", rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
