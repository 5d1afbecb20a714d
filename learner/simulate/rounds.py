"""A simulation from beginning to end: measure the base, then rounds of feedback, learning and measuring."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from learner.counted import counted
from learner.pretrain.dialogue import is_held_out
from learner.pretrain.questions import Prompt, draw_prompts, is_right, rephrase, untaught_facts
from learner.simulate import measure
from learner.simulate.client import Client, Counts, ServiceRefused
from learner.simulate.house import own_house
from learner.simulate.people import Tell, background_chat, give_comparisons, give_corrections
from learner.simulate.show import check_drawable, draw_picture, show_table
from learner.simulate.tastes import Taste, draw_up_to, load_taste
from service.errors import BadInput

FIGURES = (
    "round", "adapter", "share_won", "share_won_low", "share_won_high", "accuracy", "accuracy_base", "fluency", "empty",
    "mean_length", "distinct_2", "kl_per_token", "requests", "failed", "interrupted",
)  # fmt: skip
"""What `--json` prints of a round; the table and the notes say more."""
LOOK_SECONDS = 0.5
RUN_SECONDS = 900.0
SWAP_SECONDS = 60.0
PROMPTS_PER_COMPARISON = 5
"""How many prompts are ready for each comparison wanted: many pairs are ties, of which nothing is said."""
OVER = ("succeeded", "rejected", "nothing_to_learn", "failed", "cancelled")


@dataclass(frozen=True)
class Options:
    """`url` None: a service of one's own. `key`: an operator's key for the service at `url`."""

    taste: str
    url: str | None = None
    key: str | None = None
    rounds: int = 3
    comparisons: int = 100
    seed: int = 0
    as_json: bool = False
    picture: Path | None = None
    held_out: int = 200
    questions: int = 400
    settings: Mapping[str, str] = field(default_factory=dict)  # environment of one's own service


@dataclass(frozen=True)
class Material:
    """What is asked. No text stands in two of them."""

    training: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    questions: tuple[Prompt, ...]


def simulate(options: Options) -> int:
    """`hone simulate`. Returns the exit code; raises HoneError."""
    if options.rounds < 1 or options.comparisons < 1:
        raise BadInput("A simulation has at least one round with one comparison.")
    if options.url and not options.key:
        raise BadInput(
            "An operator's key is needed to say “learn now” to a running service.",
            "Make one with `hone keys create --role operator --name YOU` and hand it over with --key.",
        )
    taste = load_taste(options.taste)
    picture = options.picture or Path(f"simulate-{re.sub(r'[^A-Za-z0-9_-]+', '-', taste.name).strip('-')}.png")
    check_drawable(picture)
    signal.signal(signal.SIGTERM, _end)
    started = time.monotonic()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.completed}/{task.total}")
    console = Console(stderr=True, markup=False)
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1)
        last = ""

        def tell(what: str, done: int, of: int) -> None:
            nonlocal last
            bar.update(task, description=what, completed=done, total=max(of, 1))
            if what != last and not bar.console.is_terminal:  # a log has no bar: it gets a line for each new thing
                bar.console.print(f"{time.monotonic() - started:6.1f} s  {what}")
            last = what

        house = own_house(options.settings) if options.url is None else nullcontext()
        with house as own:
            url, key = (own.url, own.operator_key) if own else (options.url, options.key)
            rows, notes = asyncio.run(_simulate(options, taste, str(url), key, tell, bar.console.print))
    seconds = round(time.monotonic() - started, 1)
    if options.as_json:
        figures = [{name: row[name] for name in FIGURES} for row in rows]
        sys.stdout.write(json.dumps({"taste": taste.name, "seconds": seconds, "rounds": figures}) + "\n")
    else:
        show_table(taste.name, rows, [*notes, f"Picture: {picture}"], seconds)
    sys.stdout.flush()
    draw_picture(taste.name, rows, picture, bounds_fluency=not taste.corrects)
    return 0


def _end(*_: object) -> NoReturn:
    """SIGTERM unwinds, so that one's own service is stopped and its home swept away."""
    raise SystemExit(128 + signal.SIGTERM)


async def _simulate(
    options: Options, taste: Taste, url: str, key: str | None, tell: Tell, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    async with Client(url, key) as client:
        await client.check()
        simulation = Simulation(client, options, taste, draw_material(taste, options), tell)
        rows, notes = [await simulation.measure(0, "base")], list[str]()
        for number in range(1, options.rounds + 1):
            client.counts = Counts()
            note = f"Round {number}: {await simulation.learn(number)}"
            notes.append(note)
            say(note)
            rows.append(row := await simulation.measure(number, await simulation.live()))
            say(
                f"{row['adapter']} wins {row['share_won']:.1%}; {row['accuracy']:.1%} right (base "
                f"{row['accuracy_base']:.1%}), fluency {row['fluency']:+.3f}, {row['empty']} empty."
            )
            if "corrected" in row:
                notes.append(
                    f"Round {number}: of {row['corrected']} corrected facts {row['corrected_right']} are right now, "
                    f"{row['corrected_right_reworded']} when asked in other words."
                )
                say(notes[-1])
            if client.counts.problems:
                notes.append(f"Round {number}, last problems: {'; '.join(client.counts.problems)}")
    return rows, notes


def draw_material(taste: Taste, options: Options) -> Material:
    """Held-out prompts and questions are of texts that the base's training kept out as well."""
    seed = 1_000 * options.seed
    if taste.corrects:
        facts = untaught_facts(seed)
        held_out = [rephrase(fact, seed + 7) for fact in facts]
        training = [fact for fact in facts if fact.text not in {one.text for one in held_out}]
    else:
        held_out = taste.draw(options.held_out, seed + 2, True)
        training = taste.draw(options.rounds * options.comparisons * PROMPTS_PER_COMPARISON, seed + 3, False)
    questions = _questions(options.questions, seed + 1, {prompt.text.lower() for prompt in held_out})
    reserved = {prompt.text.lower() for prompt in (*held_out, *questions)}
    kept = [
        one for one in training if one.text.lower() not in reserved and (taste.corrects or not is_held_out(one.text))
    ]
    return Material(tuple(kept), tuple(held_out), tuple(questions))


def _questions(count: int, seed: int, taken: set[str]) -> list[Prompt]:
    """Questions with one right answer, kept out of the base's training too, and of many topics alike."""
    by_topic: dict[str, list[Prompt]] = {}
    for prompt in draw_up_to(3 * count, seed, held_out=True):
        if prompt.answers and prompt.text.lower() not in taken:
            by_topic.setdefault(prompt.topic, []).append(prompt)
    in_turn = [prompt for one_each in zip_longest(*by_topic.values()) for prompt in one_each if prompt]
    return in_turn[:count]


class Simulation:
    """One service, one taste, and what was measured of its base."""

    def __init__(self, client: Client, options: Options, taste: Taste, material: Material, tell: Tell) -> None:
        self._client, self._options, self._taste, self._tell = client, options, taste, tell
        self._material = material
        self._corrected: dict[str, Prompt] = {}
        self._has_preferred = False
        self._base: measure.Answers | None = None
        self._accuracy_base: float | None = None

    async def learn(self, number: int) -> str:
        """Feedback, "learn now", and the wait until what came of it is live. Returns what happened, in words."""
        prompts = self._prompts_of_round(number)
        async with background_chat(self._client, self._background(), self._options.seed + number):
            given = await self._give_feedback(prompts)
            if given is None:
                return "its replies are all as good as each other to this taste: nothing was left to learn"
            run = await self._client.call("POST", "/v1/runs", {"method": "auto"})
            run = await self._until_over(run["id"])
            if run["state"] == "succeeded":
                await self._until_live(run["adapter"])
        return f"{given}; {run['state'].replace('_', ' ')}: {run['message']}"

    async def measure(self, number: int, adapter: str) -> dict[str, Any]:
        """One row of the table, of the adapter that is live now (or `base` against itself)."""
        client, material, seed = self._client, self._material, 10_000 * (number + 1)
        model, places = f"hone:{adapter}", self._measured_places()
        held_out = [material.held_out[place] for place in places]
        if self._base is None:
            self._tell("asking the base", 0, 4)
            self._base = await measure.answer(client, "hone:base", material.held_out, seed)
        base = self._base.at(places)
        self._tell(f"asking {adapter}", 1, 4)
        ours = await measure.answer(client, model, held_out, seed + 5_000)
        self._tell("asking questions", 2, 4)
        if self._accuracy_base is None:
            self._accuracy_base = await measure.accuracy(client, "hone:base", material.questions)
        right = self._accuracy_base
        if adapter != "base":
            right = await measure.accuracy(client, model, material.questions)
        self._tell("measured", 4, 4)
        prefer = self._by_rightness if self._taste.corrects else self._taste.prefer
        won = measure.share_won(prefer, held_out, ours.replies, base.replies)
        row = {"round": number, "adapter": adapter} | measure.figures(won, ours, base)
        row |= {"accuracy": round(right, 4), "accuracy_base": round(self._accuracy_base, 4)}
        row |= await self._taught(model) if self._taste.corrects else {}
        counts = client.counts
        return row | {"requests": counts.requests, "failed": counts.failed, "interrupted": counts.interrupted}

    async def live(self) -> str:
        return str((await self._get("/v1/serving"))["live"])

    async def _get(self, path: str) -> Any:
        return await measure.patiently(lambda: self._client.call("GET", path))

    async def _give_feedback(self, prompts: Sequence[Prompt]) -> str | None:
        """Returns what was given, in words; None when what was learned before has left nothing to prefer. Raises
        BadInput for a taste that never preferred anything."""
        wanted = self._options.comparisons
        if self._taste.corrects:
            corrected = await give_corrections(self._client, prompts, wanted, self._tell)
            self._corrected |= {prompt.text: prompt for prompt in corrected}
            return counted(len(corrected), "correction")
        given = await give_comparisons(self._client, self._taste, prompts, wanted, self._tell)
        if not given and self._client.counts.problems:
            raise ServiceRefused(f"Nobody could chat: {self._client.counts.problems[-1]}")
        if not given and not self._has_preferred:
            raise BadInput(f"The taste {self._taste.name} likes all replies the same.", "It can't be learned.")
        self._has_preferred = True
        return counted(given, "comparison") if given else None

    async def _taught(self, model: str) -> dict[str, Any]:
        """How many of the corrected facts are answered right now, asked as they were corrected and in other words."""
        facts = list(self._corrected.values())
        again = await measure.answered_right(self._client, model, facts)
        reworded = [rephrase(fact, self._options.seed + 99) for fact in facts]
        other = await measure.answered_right(self._client, model, reworded)
        return {"corrected": len(facts), "corrected_right": sum(again), "corrected_right_reworded": sum(other)}

    async def _until_over(self, run_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            run: dict[str, Any] = await self._get(f"/v1/runs/{run_id}")
            if run["state"] in OVER:
                return run
            self._tell(f"learning: {run['phase'] or run['state']}", run["step"], run["steps"])
            await asyncio.sleep(LOOK_SECONDS)
        raise ServiceRefused(f"Run {run_id} was not over after {RUN_SECONDS:.0f} s.", "Is a learner running?")

    async def _until_live(self, adapter: str) -> None:
        deadline = time.monotonic() + SWAP_SECONDS
        while time.monotonic() < deadline:
            serving = await self._get("/v1/serving")
            if serving["live"] == adapter:
                return
            if serving["requested"] != adapter:
                break  # the rollout refused it, or an operator waits
            await asyncio.sleep(LOOK_SECONDS / 5)
        view = await self._get(f"/v1/adapters/{adapter}")
        raise ServiceRefused(f"{adapter} did not go live: it is {view['state']}. {view['reason']}")

    def _prompts_of_round(self, number: int) -> Sequence[Prompt]:
        """A share of the training prompts of its own for each round; facts are asked again every round."""
        if self._taste.corrects:
            return self._material.training
        prompts, rounds = self._material.training, self._options.rounds
        size = len(prompts) // rounds
        return prompts[size * (number - 1) : size * number]

    def _background(self) -> Sequence[Prompt]:
        return [prompt for prompt in draw_prompts(100, self._options.seed + 5) if self._may_be_trained_on(prompt)]

    def _may_be_trained_on(self, prompt: Prompt) -> bool:
        reserved = {one.text.lower() for one in (*self._material.held_out, *self._material.questions)}
        return not is_held_out(prompt.text) and prompt.text.lower() not in reserved

    def _measured_places(self) -> list[int]:
        """Which held-out prompts: of taught facts those that were corrected; before the first correction all."""
        held_out = self._material.held_out
        answers = {prompt.answers for prompt in self._corrected.values()}
        return [place for place, prompt in enumerate(held_out) if not answers or prompt.answers in answers]

    def _by_rightness(self, text: str, a: str, b: str) -> float:
        prompt = next(prompt for prompt in self._material.held_out if prompt.text == text)
        return float(is_right(prompt, a)) - float(is_right(prompt, b))
