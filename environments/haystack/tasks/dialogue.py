"""Questions about a long chat, which is one transcript: who said what when is told by the order of its turns.

    turns     the i-th piece of a kind that somebody said ("the third toast about the harbour"), word for word, after MRCR
              (https://huggingface.co/datasets/openai/mrcr)
    sessions  a value that was told, changed and forgotten over dated sessions: the current one, or the one then

The chat is `filler.dialogue`; what a task adds are turns of their own. Absent: nothing of that kind was said so often; the
value was never told, or is forgotten.
"""

from random import Random

from environments.haystack.facts import PLACES, RELATION, Entity
from environments.haystack.options import ANY, SESSION_ASKS
from environments.haystack.tasks.dialogue_wordings import (
    CAVEAT,
    CURRENT,
    FORGOTTEN,
    FORMS,
    HEADING,
    NOUNS,
    THEN,
    TOLD,
    TURN,
    Form,
    draw_piece,
    ordinal,
)
from environments.haystack.tasks.linked_wordings import draw_days, spell
from environments.haystack.tasks.task import Draw, Needles, Quiz, answer_or_none

SPEAKERS = 6  # of the turns that a task adds
MORE_SESSIONS = (1, 3)  # sessions beside those in which the asked value is told
FORGET = 0.3  # of the values told are forgotten before the next one


def _speakers(draw: Draw) -> list[str]:
    return [draw.person(named=True).told for _ in range(SPEAKERS)]


# ---- turns ----


def turns(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz that asks for the i-th piece of a kind, word for word; absent: fewer of that kind were said."""
    rng, n = draw.rng, draw.number("matches")
    form, place = rng.choice(FORMS), rng.choice(PLACES)
    i = rng.randrange(n)
    kinds = [(form, place, "superseded")] * (i if absent else n) + _near_kinds(
        draw, form, place, draw.options.distractors or absent
    )
    rng.shuffle(kinds)
    speakers = _speakers(draw)
    needles: Needles = []
    pieces: dict[str, str] = {}  # with the role of each
    for kind, about, role in kinds:
        piece = draw_piece(kind, draw.split, rng)
        while piece in pieces:
            piece = draw_piece(kind, draw.split, rng)
        pieces[piece] = role
        needles.append((TURN.format(s=rng.choice(speakers), form=kind.told, p=about[0], piece=piece), role))
    answer = "" if absent else [piece for piece, role in pieces.items() if role == "superseded"][i]
    needles = [(text, "answer" if answer and text.endswith(f"! {answer}") else role) for text, role in needles]
    question = (
        f"What is the {ordinal(i + 1)} of the {form.asked[draw.gap]} about the {place[draw.gap]}, in the order of the "
        "chat? Copy it word for word, from behind the exclamation mark to the end."
    )
    return Quiz(tuple(needles), tuple(pieces), question, answer_or_none(absent, "one", [answer], "verbatim"))


def _near_kinds(draw: Draw, form: Form, place: tuple[str, str], n: int) -> list[tuple[Form, tuple[str, str], str]]:
    """Return `n` kinds of which either form or place is the one asked for, but not both."""
    rng = draw.rng
    near = []
    for i in range(n):
        if i % 2:
            near.append((rng.choice([other for other in FORMS if other is not form]), place, "distractor"))
        else:
            near.append((form, rng.choice([other for other in PLACES if other != place]), "distractor"))
    return near


# ---- sessions ----

Event = tuple[int, bool]  # (version, whether it is forgotten now)


def sessions(draw: Draw, absent: bool) -> Quiz:
    """Return a quiz about a value that changes over sessions, at the end of all of them or of one.

    Absent: it was never told, or last forgotten.
    """
    rng, versions = draw.rng, draw.number("versions")
    relation, target = draw.relation(list(TOLD)), draw.person()
    never = absent and rng.random() < 0.5
    twins = [draw.twin(target) for _ in range(draw.options.distractors or never)]
    values = draw.values(relation, versions * (1 + len(twins)))
    asked = draw.options.session_ask if draw.options.session_ask != ANY else rng.choice(SESSION_ASKS)

    right = versions - 1 if asked == "current" else rng.randrange(versions)
    events = _events(versions, right, absent, rng)
    n = len(events) + rng.randint(*MORE_SESSIONS)
    held = sorted(rng.sample(range(n), len(events)))  # the session of each event
    decisive = events.index((right, absent))
    until = rng.randrange(held[decisive], held[decisive + 1] if decisive + 1 < len(held) else n)
    said: list[Needles] = [[] for _ in range(n)]
    speakers, turns_told = _speakers(draw), set[str]()

    def turn(person: Entity, value: str, forgotten: bool) -> str:
        template = FORGOTTEN[relation] if forgotten else rng.choice(TOLD[relation])
        # Nobody says the same twice: where all have asked to forget something, a new speaker does.
        said_by = (template.format(s=s, e=person.told, v=value) for s in rng.sample(speakers, len(speakers)))
        text = next((text for text in said_by if text not in turns_told), "")
        text = text or template.format(s=draw.person(named=True).told, e=person.told, v=value)
        turns_told.add(text)
        return text

    for i, (session, (version, forgotten)) in enumerate(zip(held, [] if never else events, strict=False)):
        role = "superseded" if i != decisive else "link" if absent else "answer"
        said[session].append((turn(target, values[version], forgotten), role))
    for i, twin in enumerate(twins, 1):
        for version, forgotten in _events(versions, -1, False, rng):
            text = turn(twin, values[i * versions + version], forgotten)
            said[rng.randrange(n)].append((text, "distractor"))

    days = [spell(day) for day in draw_days(n, rng)]
    needles: Needles = []
    for number, (day, turns_said) in enumerate(zip(days, said, strict=True), 1):
        needles += [(HEADING.format(n=number, d=day), "heading"), *rng.sample(turns_said, len(turns_said))]
    then = f"session {until + 1}" if rng.random() < 0.5 else f"the session of {days[until]}"
    wording = (CURRENT if asked == "current" else THEN)[draw.gap]
    question = wording.format(noun=NOUNS[relation][draw.gap].format(e=target.asked), when=then)
    answer = answer_or_none(absent, "one", [values[right]], RELATION[relation].kind)
    return Quiz(tuple(needles), tuple(values), f"{question} {CAVEAT[draw.gap]}", answer)


def _events(versions: int, right: int, forgotten: bool, rng: Random) -> list[Event]:
    """Return what happens to a value in order: each version is told, and some are forgotten before the next is.

    `forgotten` says whether the version `right` is; of the others, chance does.
    """
    events: list[Event] = []
    for version in range(versions):
        events.append((version, False))
        if forgotten if version == right else rng.random() < FORGET:
            events.append((version, True))
    return events
