"""The strategies for linked needles: a reader who follows no link, but looks up what the question names."""

import re
from collections import Counter
from functools import cache, lru_cache
from random import Random

from benchmarks.strategies import Strategy, abstain, echo_question, empty, passages, reply, wanted
from environments.haystack.facts import BY_KIND
from environments.haystack.sample import Sample
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.dialogue_wordings import FORMS, TOLD
from environments.haystack.tasks.hidden_question import SENT
from environments.haystack.tasks.linked_wordings import readers
from environments.haystack.tasks.task import NONE
from environments.haystack.wording import reader

GUESSED = {"count": (2, 8), "times": (2, 5)}  # what the options allow; `draw_linked` leaves them at their defaults


@cache
def _readers() -> list[tuple[str, str, re.Pattern]]:
    """(kind, name, pattern) of every wording that states a fact: those of prose, then those of chats."""
    sent = [("sent", "sent", reader(told)) for told in SENT]
    said = [
        ("said", name, re.compile(f"[^:]+: {reader(told.removeprefix('{s}: ')).pattern}"))
        for name, tellings in TOLD.items()
        for told in tellings
    ]
    pieces = [
        ("piece", form.asked[0], re.compile(rf"[^:]+: A {form.told} about the (?P<p>[^!]+)! (?P<t>.+)"))
        for form in FORMS
    ]
    return [*readers(), *sent, *said, *pieces]


def linked_facts(sample: Sample) -> list[tuple[str, str, dict[str, str]]]:
    """(kind, name, slots) of every fact, in the order of the text: what a reader sees who follows none of them."""
    texts = sorted(
        [
            *((n.token_start, n.text) for n in sample.needles),
            *zip(sample.decoys.token_starts, sample.decoys.texts, strict=True),
        ],
    )
    return [fact for _, text in texts if (fact := _fact_in(text))]


@lru_cache(maxsize=2**16)  # every strategy reads every sample, in several draws
def _fact_in(text: str) -> tuple[str, str, dict[str, str]] | None:
    for kind, name, pattern in _readers():
        if match := pattern.fullmatch(text) or pattern.fullmatch(text[0].lower() + text[1:]):
            return kind, name, match.groupdict()
    return None


def named_in(sample: Sample, name: str) -> bool:
    """True when the question names it."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sample.question) is not None


def task_of(sample: Sample) -> str:
    """The sample's task, whether the fact is there or not."""
    return TASKS[sample.recipe["task"]].question


def linked_candidates(sample: Sample) -> list[str]:
    """What the answer may be after looking up what the question names: a person, a place, an event."""
    facts, task = linked_facts(sample), task_of(sample)
    if task in ("find_all", "count", "order"):
        present = [slots["e"] for kind, _, slots in facts if kind == "event" and named_in(sample, slots["p"])]
        return list(dict.fromkeys(present))
    if task == "update":
        changes = [slots["v"] for kind, _, slots in facts if kind == "change" and named_in(sample, slots["e"])]
        return list(dict.fromkeys(changes or [slots["v"] for kind, _, slots in facts if kind == "change"]))
    if task == "graph":
        touched = [
            slots for kind, _, slots in facts if kind == "link" and any(named_in(sample, slots[s]) for s in "ev")
        ]
        near = dict.fromkeys(slots[s] for slots in touched for s in "ev" if not named_in(sample, slots[s]))
        return list(near) or everyone(sample)
    if task == "turns":
        pieces = [s for kind, name, s in facts if kind == "piece" and f" {name} about the {s['p']}," in sample.question]
        return [slots["t"] for slots in pieces]
    if task == "sessions":
        said = [slots["v"] for kind, _, slots in facts if kind == "said" and named_in(sample, slots["e"])]
        return list(dict.fromkeys(said or [slots["v"] for kind, _, slots in facts if kind == "said"]))
    relation = BY_KIND[sample.answer.value_kind].name
    values = {slots["e"]: slots["v"] for kind, name, slots in facts if (kind, name) == ("value", relation)}
    if task == "join":
        present = [slots["e"] for kind, _, slots in facts if kind == "event" and named_in(sample, slots["p"])]
        return [values[who] for who in present if who in values] or list(values.values())
    return list(values.values())


def everyone(sample: Sample) -> list[str]:
    """All people in the text."""
    return list(dict.fromkeys(slots[s] for kind, _, slots in linked_facts(sample) for s in "ev"
                              if s in slots and (s == "e" or kind in ("link", "sent"))))  # fmt: skip


def steps(people: list[str]) -> str:
    """A list of hops, as the prompt asks for it."""
    return f"<steps>{'; '.join(people)}</steps>\n"


def linked_right(sample: Sample, rng: Random) -> str:
    """The right answer: the ceiling."""
    return reply(sample, list(sample.answer.values) or [NONE], sorted(sample.evidence))


def _guess(sample: Sample, rng: Random) -> list[str]:
    if sample.answer.value_kind == "count":
        low, high = GUESSED["times" if task_of(sample) == "update" else "count"]
        return [str(rng.randint(low, high))]
    values = linked_candidates(sample) or [NONE]
    return rng.sample(values, min(wanted(sample), len(values)))


def linked_guess(sample: Sample, rng: Random) -> str:
    """Honest guessing: looks up what the question names, and draws among what is left, as many as the question wants."""
    return reply(sample, _guess(sample, rng))


def dump_candidates(sample: Sample, rng: Random) -> str:
    """Everything that the answer may be, in the order of the text."""
    return reply(sample, linked_candidates(sample))


def dump_people(sample: Sample, rng: Random) -> str:
    """Everyone in the text, as the answer and as steps."""
    return steps(everyone(sample)) + reply(sample, everyone(sample))


def head_as_step(sample: Sample, rng: Random) -> str:
    """Those whom the question names as steps, and a wrong answer."""
    return steps([who for who in everyone(sample) if named_in(sample, who)]) + reply(sample, ["wrong"])


def steps_dump(sample: Sample, rng: Random) -> str:
    """The right steps among everyone, and a wrong answer."""
    return steps([*sample.answer.steps, *everyone(sample)]) + reply(sample, ["wrong"])


def random_steps(sample: Sample, rng: Random) -> str:
    """As many people as there are steps, at random, and a wrong answer."""
    people = everyone(sample)
    return steps(rng.sample(people, min(max(len(sample.answer.steps), 1), len(people)))) + reply(sample, ["wrong"])


def every_number(sample: Sample, rng: Random) -> str:
    """All numbers from 0 to 64."""
    return reply(sample, [str(n) for n in range(65)])


def most_likely_number(sample: Sample, rng: Random) -> str:
    """Always 3, the number that most settings allow."""
    return reply(sample, ["3"])


def first_candidate(sample: Sample, rng: Random) -> str:
    """The first in the text of what the answer may be."""
    return reply(sample, linked_candidates(sample)[:1])


def last_candidate(sample: Sample, rng: Random) -> str:
    """The last in the text: the latest value, if text were time."""
    return reply(sample, linked_candidates(sample)[-1:])


def reading_order(sample: Sample, rng: Random) -> str:
    """As many as are wanted, in the order of the text instead of time."""
    return reply(sample, linked_candidates(sample)[: wanted(sample)])


def same_many_times(sample: Sample, rng: Random) -> str:
    """One guess, as often as values are wanted."""
    return reply(sample, (linked_candidates(sample) or [NONE])[:1] * wanted(sample))


def guess_and_none(sample: Sample, rng: Random) -> str:
    """A guess and "none", to be right either way."""
    return reply(sample, [*_guess(sample, rng), NONE])


def guess_citing_all(sample: Sample, rng: Random) -> str:
    """A guess that cites every passage."""
    return reply(sample, _guess(sample, rng), passages(sample))


def dump_in_prose(sample: Sample, rng: Random) -> str:
    """Everything that the answer may be, as "a, b and c"."""
    return reply(sample, [" and ".join(linked_candidates(sample))])


def dump_bullets(sample: Sample, rng: Random) -> str:
    """The same as bullets, in capitals."""
    return reply(sample, ["\n".join(f"- {value.upper()}" for value in linked_candidates(sample))])


def dump_steps_in_prose(sample: Sample, rng: Random) -> str:
    """Everyone as steps, in one phrase, and a wrong answer."""
    return steps([" and ".join(everyone(sample))]) + reply(sample, ["wrong"])


def most_linked(sample: Sample, rng: Random) -> str:
    """Those whom most facts name, as many as are wanted."""
    named = Counter(slots[s] for kind, _, slots in linked_facts(sample) for s in "ev" if s in slots)
    return reply(sample, [name for name, _ in named.most_common(wanted(sample))])


def all_pieces_glued(sample: Sample, rng: Random) -> str:
    """Everything that the answer may be, one behind the other, as if it were one value."""
    return reply(sample, [" ".join(linked_candidates(sample))])


def half_the_piece(sample: Sample, rng: Random) -> str:
    """The right answer cut in half, for a score that pays for overlap."""
    return reply(sample, [value[: len(value) // 2] for value in sample.answer.values] or ["half"])


def right_among_others(sample: Sample, rng: Random) -> str:
    """The right answer behind another candidate, for a score that looks for it in the reply."""
    return reply(sample, ["\n".join([*linked_candidates(sample)[:1], *sample.answer.values[:1], "and so on"])])


def deny_and_guess(sample: Sample, rng: Random) -> str:
    """A denial that names a guess, to be right either way."""
    return reply(sample, [f"The text does not mention it, unless it is {' and '.join(_guess(sample, rng))}"])


LINKED_HONEST: tuple[Strategy, ...] = (linked_right, linked_guess)
LINKED_ADVERSARIES: tuple[Strategy, ...] = (
    dump_candidates, dump_people, echo_question, head_as_step, steps_dump, random_steps, abstain, every_number,
    most_likely_number, first_candidate, last_candidate, reading_order, same_many_times, guess_and_none, empty,
    guess_citing_all, dump_in_prose, dump_bullets, dump_steps_in_prose, deny_and_guess, most_linked, all_pieces_glued,
    half_the_piece, right_among_others,
)  # fmt: skip
