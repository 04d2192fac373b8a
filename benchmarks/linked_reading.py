"""Is every question about a graph, a hidden question or a chat answerable, in one way only, from its text alone?

    python -m benchmarks.linked_reading [--samples 100000] [--length 2048] [--seed 0] [--json out.json]

As in `linked_uniqueness`, a solver of its own sees the prompt as a model does: it takes paragraphs, sentences and question
apart with its own patterns and keeps every answer that they allow. A sample is sound if that is exactly its `answer`, or
nothing at all where the answer is said to be absent, and if every needle reads back as one fact.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import uniqueness_run
from benchmarks.linked_uniqueness import CANNOT, read, told_name
from environments.haystack.facts import PLACES, RELATION, RELATIONS
from environments.haystack.sample import Sample
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.dialogue_wordings import FORMS, NOUNS
from environments.haystack.tasks.linked_wordings import LINKS

Answers = list[str] | list[list[str]]  # all that the text allows; of sets, sorted
_NAME = r"[A-Z][a-z]+ [A-Z][a-z]+"
_PERSON = rf"{_NAME}|the [a-z-]+ [a-z]+ by the [a-z ]+?"
_VALUE = r"[\w:-]+(?: [\w:-]+)*"


def paragraphs_of(sample: Sample) -> list[str]:
    """The paragraphs of the haystack, without the numbers of passages."""
    haystack = sample.messages[0]["content"].split("\n\n", 1)[1].rsplit("\n\nQuestion: ", 1)[0]
    return [re.sub(r"^\[\d+\] ", "", paragraph) for paragraph in haystack.split("\n\n")]


def sentences_of(sample: Sample) -> list[str]:
    """The sentences of the haystack."""
    return [s for p in paragraphs_of(sample) for s in re.split(r"(?<=[.?!])\s+|(?<=[.?!][\"'])\s+", p) if s]


def question_of(sample: Sample) -> str:
    """The question, without the form of the reply."""
    return sample.messages[0]["content"].rsplit("\n\nQuestion: ", 1)[1].split("\n", 1)[0]


# ---- graph ----


@cache
def _kinds(gap: bool) -> list[tuple[str, re.Pattern[str]]]:
    """(kind, pattern of "a person to whom X pays rent") of each kind of link."""
    words = [(link.name, link.asked_gap if gap else link.asked) for link in LINKS]
    return [
        (name, re.compile(re.escape(text).replace("the\\ ", "an?\\ ", 1).replace(r"\{x\}", "(.+?)")))
        for name, text in words
    ]


def _kind(phrase: str, gap: bool) -> tuple[str, str]:
    """The kind of a phrase, and the person in it."""
    found = [(name, match[1]) for name, pattern in _kinds(gap) if (match := pattern.fullmatch(phrase))]
    assert len(found) == 1, phrase
    return found[0]


def _graph(sample: Sample, gap: bool) -> tuple[Answers, int]:
    sentences, question = sentences_of(sample), question_of(sample)
    links = read(sentences).links
    if m := re.fullmatch(
        r"Start with (.+?)\. One step leads from a person to (.+?)\. Who can be reached in at most (\d+) steps\? "
        r"Name all of them, but not the one to start with\.",
        question,
    ):
        head, kinds = told_name(m[1], gap), {_kind(phrase, gap)[0] for phrase in m[2].split(" or to ")}
        near = {head}
        for _ in range(int(m[3])):
            near |= {to for who, kind, to in links if who in near and kind in kinds}
        people = near - {head}
    elif m := re.fullmatch(r"Of whom is it true that (.+?) is (an? .+)\? Name all of them\.", question):
        target, kind = told_name(m[1], gap), _kind(m[2], gap)[0]
        people = {who for who, name, to in links if to == target and name == kind}
    else:
        m = re.fullmatch(r"Who is (an? .+) and also (an? .+)\? Name all of them\.", question)
        assert m, question
        people = set.intersection(
            *({to for who, name, to in links if (name, who) == (kind, told_name(x, gap))}
              for kind, x in (_kind(phrase, gap) for phrase in m.groups()))
        )  # fmt: skip
    return [sorted(people)] if people else [], len(links) + len(read(sentences).values)


# ---- hidden question ----

_SENT = (
    rf"Those who come to (?P<e>{_PERSON}) are sent on to (?P<v>{_PERSON})\.",
    rf"Every visitor of (?P<e>{_PERSON}) is sent on to (?P<v>{_PERSON})\.",
    rf"With such matters (?P<e>{_PERSON}) refers people to (?P<v>{_PERSON})\.",
)
_POSED = (
    rf"The question that (?P<e>{_PERSON}) poses is this: (?P<q>.+\?)",
    rf"There is one question posed by (?P<e>{_PERSON}): (?P<q>.+\?)",
)
_BEGIN = (
    r"Start with (.+?)\. Go to the person to whom that person sends visitors, and so on, up to the one who poses a "
    r"question\. Answer that question\.",
    r"Begin with (.+?)\. Move along from one to the next as told, up to the last\. Reply to what is wanted there\.",
)


@cache
def _asked_of(gap: bool) -> list[tuple[str, re.Pattern[str]]]:
    words = [(r.name, (r.asked_gap if gap else r.asked).replace("{s}", "").replace("{is_}", "is")) for r in RELATIONS]
    return [(name, re.compile(re.escape(text).replace(r"\{e\}", "(.+?)"))) for name, text in words]


def _hidden_question(sample: Sample, gap: bool) -> tuple[Answers, int]:
    sentences, question = sentences_of(sample), question_of(sample)
    sent = [m.groups() for s in sentences for p in _SENT if (m := re.fullmatch(p, s))]
    posed = [m.groups() for s in sentences for p in _POSED if (m := re.fullmatch(p, s))]
    world = read(sentences)
    m = re.fullmatch(_BEGIN[gap], question)
    assert m, question
    at = {told_name(m[1], gap)}
    for _ in range(len(sent)):
        at |= {to for who, to in sent if who in at}
    answers = []
    for asked in [q for who, q in posed if who in at]:
        for relation, pattern in _asked_of(gap):
            if match := pattern.fullmatch(asked):
                target = told_name(match[1], gap)
                answers += [value for who, name, value in world.values if (who, name) == (target, relation)]
    return answers, len(sent) + len(posed) + len(world.values) + len(world.links)


# ---- chats ----

_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth"
).split()


def _turns(sample: Sample, gap: bool) -> tuple[Answers, int]:
    question = question_of(sample)
    said = [
        m.groups() for p in paragraphs_of(sample) if (m := re.fullmatch(rf"{_NAME}: A (\w+) about the (.+?)! (.+)", p))
    ]
    m = re.fullmatch(
        r"What is the (\w+) of the (.+?) about the (.+), in the order of the chat\? Copy it word for word, from behind the "
        r"exclamation mark to the end\.",
        question,
    )
    assert m, question
    (form,) = (f.told for f in FORMS if f.asked[gap] == m[2])
    (place,) = (told for told, *asked in PLACES if (asked[0] if gap else told) == m[3])
    pieces = [piece for kind, about, piece in said if (kind, about) == (form, place)]
    return pieces[_ORDINALS.index(m[1]) :][:1], len(said)


_TELLINGS = (
    ("combination", rf"From today on the combination that (?P<e>{_PERSON}) uses for the safe is (?P<v>{_VALUE})"),
    ("combination", rf"The safe of (?P<e>{_PERSON}) now yields to the combination (?P<v>{_VALUE})"),
    ("combination", rf"Please forget the combination of (?P<e>{_PERSON}) for the safe, it has been given up"),
    ("password", rf"From today on (?P<e>{_PERSON}) answers to the password (?P<v>{_VALUE})"),
    ("password", rf"The password of (?P<e>{_PERSON}) is now (?P<v>{_VALUE})"),
    ("password", rf"Please forget the password of (?P<e>{_PERSON}), it has been given up"),
    ("registration", rf"From today on (?P<e>{_PERSON}) holds the registration number (?P<v>{_VALUE})"),
    ("registration", rf"The registration number of (?P<e>{_PERSON}) is now (?P<v>{_VALUE})"),
    ("registration", rf"Please forget the registration number of (?P<e>{_PERSON}), it has been given up"),
    ("heir", rf"From today on the will of (?P<e>{_PERSON}) names as heir (?P<v>{_VALUE})"),
    ("heir", rf"The heir of (?P<e>{_PERSON}) is now (?P<v>{_VALUE})"),
    ("heir", rf"Please forget the heir of (?P<e>{_PERSON}), the will has been torn up"),
)  # fmt: skip


@cache
def _nouns(gap: bool) -> list[tuple[str, re.Pattern[str]]]:
    """(relation, pattern of the question for it) of each relation that sessions tell."""
    words = [(name, re.escape(nouns[gap]).replace(r"\{e\}", "(.+?)")) for name, nouns in NOUNS.items()]
    return [(name, re.compile(rf"what (?:is|was) {noun}(?: at the end)?\? ")) for name, noun in words]


def _sessions(sample: Sample, gap: bool) -> tuple[Answers, int]:
    question = question_of(sample)
    headings: list[tuple[str, str]] = []
    said: list[tuple[int, str, str, str | None]] = []  # in which session, of whom, which relation, the value if any
    for paragraph in paragraphs_of(sample):
        if m := re.fullmatch(r"Session (\d+) of the chat, held on (.+)\.", paragraph):
            headings.append((f"session {m[1]}", f"the session of {m[2]}"))
        for relation, pattern in _TELLINGS:
            if m := re.fullmatch(rf"{_NAME}: {pattern}\.", paragraph):
                said.append((len(headings), m["e"], relation, m.groupdict().get("v")))
    last = len(headings)
    if m := re.match(r"(?:According to the chat up to the end of|Counting nothing after) (.+?), what was", question):
        (last,) = (i for i, names in enumerate(headings, 1) if m[1] in names)
    (asked,) = (
        (relation, told_name(m[1], gap)) for relation, pattern in _nouns(gap) if (m := pattern.search(question))
    )
    told = [value for session, who, relation, value in said if session <= last and (relation, who) == asked]
    assert headings == sorted(headings, key=headings.index) and [h[0] for h in headings] == [
        f"session {i}" for i in range(1, len(headings) + 1)
    ]
    return ([told[-1]] if told and told[-1] else []), len(said) + len(headings)


# ---- judging a sample ----

SOLVERS: dict[str, Callable[[Sample, bool], tuple[Answers, int]]] = {
    "graph": _graph,
    "hidden_question": _hidden_question,
    "turns": _turns,
    "sessions": _sessions,
}
READ = tuple(name for name, task in TASKS.items() if task.question in SOLVERS)


def faults(sample: Sample, lexical_gap: bool) -> list[str]:
    """What is wrong with the sample; nothing, if its answer is the only one that its text allows."""
    task, answer, wrong = TASKS[sample.recipe["task"]], sample.answer, []
    try:
        found, facts = SOLVERS[task.question](sample, lexical_gap)
    except (AssertionError, ValueError, KeyError) as error:
        return [f"{CANNOT}: {error}"]
    right: Answers = [sorted(answer.values)] if answer.kind == "set" else list(answer.values)
    if (answer.kind == "absent") != task.absent:
        wrong.append("absent or not")
    elif found != ([] if answer.kind == "absent" else right):
        wrong.append("another answer" if len(found) == 1 else f"{len(found) and 'several'} answers")
    if facts != len(sample.needles) + len(sample.decoys.texts):
        wrong.append("a needle reads as none or several")
    if answer.value_kind in {RELATION[name].kind for name in RELATION} and len(set(answer.values)) != len(
        answer.values
    ):
        wrong.append("a value stands twice")
    return wrong


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
    if not uniqueness_run.run(READ, faults, limits, tokenizer, json_file):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
