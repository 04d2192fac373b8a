"""Is every linked question answerable, in one way only, from its text alone? An independent solver reads it and answers.

    python -m benchmarks.linked_uniqueness [--samples 100000] [--length 2048] [--seed 0] [--json out.json]

The solver sees the prompt as a model does: it takes haystack and question apart with patterns of its own, made from the
templates but stricter than the generator's, follows the facts, and keeps every answer that they allow. A sample is sound
if that is exactly its `answer`, or nothing at all where the answer is said to be absent. Structure is checked beside it:
every needle and decoy reads back as one fact, no two links of one kind leave one person, decoys are whole chains of the
asked length that meet neither each other nor the asked one. Tasks and options are gone through in turn.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import uniqueness_run
from environments.haystack.facts import PLACES, RELATION, RELATIONS, TRADES, TRAITS
from environments.haystack.sample import Haystacks, Sample
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.linked_wordings import ARRIVAL, CHANGES, EVENTS, LINKS

SOLVED = ("chain", "update", "find_all", "count", "order", "join")  # `linked_reading.py` solves the others
LINKED = tuple(name for name, task in TASKS.items() if task.question in SOLVED)

# ---- reading the text ----

_MONTHS = "January February March April May June July August September October November December".split()
_DAY = rf"\d{{1,2}} (?:{'|'.join(_MONTHS)}) \d{{4}}"
_NAMED = r"[A-Z][a-z]+ [A-Z][a-z]+"
_SLOTS = {
    "e": rf"{_NAMED}|the [a-z-]+ [a-z]+ by the [a-z ]+?",
    "p": "|".join(re.escape(told) for told, _ in PLACES),
    "d": _DAY,
}
_VALUES = {
    "words": r"[a-z]+(?:-[a-z]+){3}",
    "numbers": r"\d{10}",
    "uuids": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "dates": rf"{_DAY} \d\d:\d\d:\d\d",
    "names": r"[A-Z][a-z]+(?: [A-Z][a-z]+){2}",
}


def _pattern(template: str, value: str) -> re.Pattern:
    """Reads a whole sentence of that template; `value` is what `{v}` looks like."""
    first, *parts = re.split(r"\{(\w)\}", template[0].upper() + template[1:])
    text = re.escape(first)
    for slot, literal in zip(parts[::2], parts[1::2], strict=True):
        text += f"(?P<{slot}>{value if slot == 'v' else _SLOTS[slot]}){re.escape(literal)}"
    return re.compile(text)


@cache
def _patterns() -> dict[str, list[tuple[str, str, re.Pattern]]]:
    """(sort, name, pattern) of all templates, by the first word of their sentences."""
    tables = [
        *(("link", k.name, told, _SLOTS["e"]) for k in LINKS for told in k.told),
        *(("event", k.name, told, "") for k in EVENTS for told in k.told),
        *(("arrival", ARRIVAL.name, told, "") for told in ARRIVAL.told),
        *(("change", k.relation, told, _VALUES[RELATION[k.relation].kind]) for k in CHANGES for told in k.told),
        *(("value", k.name, told, _VALUES[k.kind]) for k in RELATIONS for told in k.told),
    ]
    found: dict[str, list[tuple[str, str, re.Pattern]]] = defaultdict(list)
    for sort, name, told, value in tables:
        found[re.split(r"[ ,]", told)[0]].append((sort, name, _pattern(told, value)))
    return found


@dataclass
class World:
    """All that a text states."""

    links: list[tuple[str, str, str]] = field(default_factory=list)  # from, kind, to
    events: list[tuple[str, str, str]] = field(default_factory=list)  # who, what, where
    arrivals: list[tuple[str, str, date]] = field(default_factory=list)  # who, where, when
    changes: list[tuple[str, str, date, str]] = field(default_factory=list)  # who, relation, from when, value
    values: list[tuple[str, str, str]] = field(default_factory=list)  # who, relation, value

    def facts(self) -> list[tuple]:
        """Every fact of the text."""
        return [*self.links, *self.events, *self.arrivals, *self.changes, *self.values]

    def people(self) -> set[str]:
        """Everyone whom a fact names."""
        return {fact[0] for fact in self.facts()} | {target for *_, target in self.links}


def read(sentences: Iterable[str]) -> World:
    """The facts among the sentences."""
    world, patterns = World(), _patterns()
    for sentence in sentences:
        for sort, name, pattern in patterns.get(re.split(r"[ ,]", sentence, maxsplit=1)[0], ()):
            if m := pattern.fullmatch(sentence):
                if sort == "link":
                    world.links.append((m["e"], name, m["v"]))
                elif sort == "event":
                    world.events.append((m["e"], name, m["p"]))
                elif sort == "arrival":
                    world.arrivals.append((m["e"], m["p"], _day(m["d"])))
                elif sort == "change":
                    world.changes.append((m["e"], name, _day(m["d"]), m["v"]))
                else:
                    world.values.append((m["e"], name, m["v"]))
    return world


def _day(text: str) -> date:
    return datetime.strptime(text, "%d %B %Y").date()


def parts_of(sample: Sample) -> tuple[list[str], str]:
    """The sentences of the haystack, and the question, out of the user's message."""
    content = sample.messages[0]["content"]
    _, rest = content.split("\n\n", 1)
    haystack, asked = rest.rsplit("\n\nQuestion: ", 1)
    sentences = re.split(r"(?<=[.?!\"'”’])\s+|(?:^|(?<=\n\n))\[\d+\] ", haystack)
    return [s for s in sentences if s], asked.split("\n", 1)[0]


# ---- reading the question ----

CANNOT = "cannot be read"


@cache
def _told() -> dict[str, str]:
    """What needles call whom a question calls so, with a lexical gap."""
    found = {}
    for trait, trade, place in product(TRAITS, TRADES, PLACES):
        told, asked = (f"the {trait[i]} {trade[i]} by the {place[i]}" for i in (0, 1))
        assert asked not in found, f"two people are asked for as {asked!r}"
        found[asked] = told
    return found


def told_name(text: str, gap: bool) -> str:
    """How needles call the person whom a question calls so."""
    return _told()[text] if gap else text


@cache
def _asked_links(gap: bool) -> dict[str, str]:
    return {(k.asked_gap if gap else k.asked).format(x="that person"): k.name for k in LINKS}


@cache
def _asked_values(gap: bool, of: str) -> dict[str, str]:
    return {(r.asked_gap if gap else r.asked).format(e=of, s="", is_="is"): r.name for r in RELATIONS}


@cache
def _asked_events(gap: bool) -> dict[str, tuple[str, str]]:
    return {
        (e.asked_gap if gap else e.asked).format(p=place[gap]): (e.name, place[0])
        for e in (*EVENTS, ARRIVAL)
        for place in PLACES
    }


@cache
def _asked_changes(gap: bool) -> list[tuple[str, str, re.Pattern]]:
    found = []
    for change in CHANGES:
        for ask in ("current", "then", "times"):
            pattern = re.escape(getattr(change, ask)[gap]).replace(r"\{e\}", "(?P<e>.+?)")
            found.append((change.relation, ask, re.compile(pattern.replace(r"\{d\}", f"(?P<d>{_DAY})"))))
    return found


def solve(world: World, question: str, gap: bool) -> tuple[str, list[Any]]:
    """(what sort of question it is, all answers that the facts allow). An answer is a value or a list of people."""
    if m := re.fullmatch(r"Start with (.+?)\. Go to (.+)", question):
        *hops, last = m[2].split(". Go to ")
        final_link, ask = last.split(". ", 1)
        at = {told_name(m[1], gap)}
        for hop in [*hops, final_link]:
            at = {to for who, kind, to in world.links if who in at and kind == _asked_links(gap)[hop]}
        relation = _asked_values(gap, "the person you have come to")[ask]
        return "chain", [value for who, name, value in world.values if who in at and name == relation]
    if m := re.fullmatch(r"Find the person (who .+?)\. (.+)", question):
        event, place = _asked_events(gap)[m[1]]
        relation = _asked_values(gap, "that person")[m[2]]
        found = {who for who, what, where in world.events if (what, where) == (event, place)}
        return "join", [value for who, name, value in world.values if who in found and name == relation]
    condition, _, order = question.partition("? ")
    if order in ("Name all of them.", "Say only how many people.", "List them by date, earliest first."):
        return _solve_for_people(world, *_asked_events(gap)[condition[0].lower() + condition[1:]], order)
    for relation, ask, pattern in _asked_changes(gap):
        if m := pattern.fullmatch(question):
            who = told_name(m["e"], gap)
            mine = sorted((when, value) for e, r, when, value in world.changes if (e, r) == (who, relation))
            if ask == "times":
                return "update", [str(len({value for _, value in mine}))] if mine else []
            if ask == "then":
                mine = [(when, value) for when, value in mine if when <= _day(m["d"])]
            return "update", [value for when, value in mine if when == mine[-1][0]]
    return CANNOT, []


def _solve_for_people(world: World, event: str, place: str, order: str) -> tuple[str, list[Any]]:
    if order.startswith("List"):
        came = sorted((when, who) for who, where, when in world.arrivals if where == place)
        same_day = len({when for when, _ in came}) < len(came)
        return "order", [[], []] if same_day else [[who for _, who in came]] if came else []
    people = sorted({who for who, what, where in world.events if (what, where) == (event, place)})
    if order.startswith("Say"):
        return "count", [str(len(people))] if people else []
    return "find_all", [people] if people else []


# ---- judging a sample ----


def faults(sample: Sample, lexical_gap: bool) -> list[str]:
    """What is wrong with the sample; nothing, if its answer is the only one that its text allows."""
    sentences, question = parts_of(sample)
    world, wrong = read(sentences), []
    sort, found = solve(world, question, lexical_gap)
    task, answer = sample.recipe["task"], sample.answer
    if sort != TASKS[task].question:
        wrong.append(f"reads as {sort}")
    right: list[Any] = [answer.values[0]] if answer.kind == "one" else [list(answer.values)]
    if answer.kind == "set":
        right = [sorted(answer.values)]
    if (answer.kind == "absent") != TASKS[task].absent:
        wrong.append("absent or not")
    elif found != ([] if answer.kind == "absent" else right):
        wrong.append("another answer" if len(found) == 1 else f"{len(found) and 'several'} answers")
    return wrong + _structure(sample, world)


def _structure(sample: Sample, world: World) -> list[str]:
    wrong = []
    needles, decoys = read(n.text for n in sample.needles), read(sample.decoys.texts)
    if sorted(map(repr, world.facts())) != sorted(map(repr, needles.facts() + decoys.facts())):
        wrong.append("facts lost or added")
    if len(world.facts()) != len(sample.needles) + len(sample.decoys.texts):
        wrong.append("a needle reads as none or several")
    if any(n > 1 for n in Counter((who, kind) for who, kind, _ in world.links).values()):
        wrong.append("two links of a kind leave one person")
    if any(n > 1 for n in Counter((who, r, when) for who, r, when, _ in world.changes).values()):
        wrong.append("two values on one day")
    values = [v for *_, v in world.values] + [v for *_, v in world.changes]
    if len(set(values)) < len(values):
        wrong.append("a value stands twice")
    if needles.people() & decoys.people():
        wrong.append("a decoy meets a needle")
    return wrong + _chains(sample, decoys)


def _chains(sample: Sample, decoys: World) -> list[str]:
    """Decoys are disjoint chains, each of as many facts as the asked one (a question without hops: two)."""
    hops = max(sample.profile["hops"] or 0, 2)
    after, ends = {who: to for who, _, to in decoys.links}, {who for who, *_ in decoys.values}
    heads = after.keys() - set(after.values())
    lengths = []
    for at in heads:
        facts = 1
        while at in after:
            at, facts = after[at], facts + 1
        lengths.append(facts if at in ends else -1)
    whole = len(set(after.values())) == len(after) == len(decoys.links) and len(heads) == len(decoys.values)
    return [] if whole and set(lengths) <= {hops} else ["decoys are no chains of the asked length"]


# ---- the measurement ----


def judge(haystacks: Haystacks, index: int, length: int) -> tuple[Sample, list[str]]:
    """The `index`-th sample of the run, and what is wrong with it."""
    return uniqueness_run.judge(haystacks, index, length, LINKED, faults)


def main(
    samples: Annotated[int, typer.Option(help="Samples, tasks and variants in turn.", min=1)] = 100_000,
    length: Annotated[int, typer.Option(help="Tokens of each.", min=1024)] = 2048,
    seed: Annotated[int, typer.Option(help="Index of the first.", min=0)] = 0,
    tokenizer: Annotated[str, typer.Option(help="smollm2, gpt2 or mistral.")] = "gpt2",
    seconds: Annotated[float, typer.Option(help="Stop after so long; 0 is never.", min=0)] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers there.")] = None,
) -> None:
    """Print, task by task, how many samples are sound. Exits with 1 if one is not."""
    limits = uniqueness_run.Limits(samples, length, seed, seconds)
    if not uniqueness_run.run(LINKED, faults, limits, tokenizer, json_file):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
