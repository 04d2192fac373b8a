"""Facts to state in documents, and questions about them with their answers, all of the training split.

    single      one fact of a person, or whom a link leads to
    multi_key   the same, where people whose names are easily mistaken have other values
    linked      a value two to four facts away from the person named, among others that lead astray
    absent      what no document says: of a person in it, of someone like people who have just that, or behind a missing link
    order       which of two people is named first
    count       how many people meet a condition

`FactDraw` states facts and asks about them; answers.py reads the finished documents and checks every answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from environments.haystack import facts, question_wordings
from environments.haystack.facts import PLACES, RELATIONS, Entity, Fact, state
from environments.haystack.options import Options
from environments.haystack.tasks.linked_wordings import EVENTS, LINKS, Event, Link
from environments.haystack.tasks.task import NONE, Draw
from environments.haystack.wording import capitalised, sentence

SPLIT = "train"
# Of the kinds in a row. A small model learns single facts within some hundred rows, links over thousands of questions.
WEIGHTS = {"single": 4, "multi_key": 3, "linked": 8, "absent": 7, "order": 1, "count": 1}
WORDINGS = ("train", "environments")
TWINS = (1, 3)  # people whose names are easily mistaken for that of the person asked about
HOPS = {2: 3, 3: 1, 4: 1}  # facts from the person named to the value, and how often
ASTRAY = 0.5  # of the questions over links, those with facts beside them that are easily taken for theirs
GAP_KINDS = ("single", "multi_key", "linked", "absent")  # of which people may be asked for in other words
# Where links are asked for: of single questions, and of absent ones for a fact of one person, those that ask for a link.
LINK_ALONE = {"single": 0.25, "absent": 0.5}
MATCHES = (1, 4)  # people who meet a condition
APART = 0.15  # of the document, at least, between two people whose order is asked for
ORDERS = (
    "Which of the two does the text name first, {a} or {b}?",
    "Who is named earlier in the text, {a} or {b}?",
    "Of {a} and {b}, who comes first in the text?",
    "Whom does one read of first, {a} or {b}?",
)
COUNTS = (
    "{c}? Say only how many people.",
    "Count the people {c}.",
    "How many are there {c}?",
    "Say with a number how many people there are {c}.",
)
INSIDE = (0.01, 0.99)  # depths among other sentences
EDGES = 0.1  # of the statements open or close their document, where they are paragraphs of their own
Claim = tuple[str, str, str]  # a person, a relation, link or event, and its value, other person or place


@dataclass(frozen=True)
class Statement:
    """A sentence that states a fact, in the document of that index, at a depth between 0 and 1."""

    text: str
    document: int
    depth: float


@dataclass(frozen=True)
class ReaderQuestion:
    """A question with its answer, and what must stand in the documents for the answer to be right.

    `steps`: the people passed on the way to the answer, or to where the documents say no more. `document`: the one that
    holds the answer, which a question may name. `claims`: all that the documents say of these people and relations.
    `unsaid`: (person, relation or link) of which they say nothing. `named`: people in the order in which the document names
    them, each once. `meet`: (event, place), which as many people of the document meet as the answer says. `begun`: the
    beginning of a sentence that ends with the answer, "" where the answer is asked for in its own form.
    """

    kind: str
    text: str
    answer: str
    document: int
    hops: int = 1
    steps: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    unsaid: tuple[tuple[str, str], ...] = ()
    named: tuple[str, ...] = ()
    meet: tuple[str, str] | None = None
    several: bool = False  # the answer is a list
    begun: str = ""

    @property
    def ending(self) -> str:
        """Return how the sentence goes on that is begun."""
        return f" {self.answer}."


@dataclass
class FactDraw:
    """Draws facts and questions for the documents of one row.

    `across`: half of the chains of links have their facts in any of the documents, the others in one. `wordings`:
    "train", of which evaluations hold none, or "environments", those in which the environments ask. `lexical_gap`: the
    share of `GAP_KINDS` whose people the documents describe, by trade, trait and place, and the questions describe in other
    words; in the environments' wordings such a question shares no content word with the wording of what it rests on.
    """

    rng: Random
    documents: int = 1
    wordings: str = "train"
    across: bool = False
    lexical_gap: float = 0.0
    statements: list[Statement] = field(default_factory=list)
    # By name: the person, a document about them, and the relations and links stated.
    _known: dict[str, tuple[Entity, int, set[str]]] = field(default_factory=dict)
    # By name: the mutual links that hold for them because they hold for another.
    _held_back: dict[str, set[str]] = field(default_factory=dict)
    _links_alone: bool = False
    _gap: bool = False  # in the question being made
    _conditions: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._draw = Draw(Options(lexical_gap=bool(self.lexical_gap)), SPLIT, self.rng)

    def questions(self, count: int, kinds: Sequence[str]) -> list[ReaderQuestion]:
        """State facts, and return `count` questions of these kinds, in random order."""
        make = {
            "single": self._single,
            "multi_key": self._multi_key,
            "linked": self._linked,
            "absent": self._absent,
            "order": self._order,
            "count": self._count,
        }
        # The environments ask for links on the way to a value alone.
        self._links_alone = "linked" in kinds and self.wordings == SPLIT
        drawn = self.rng.choices(kinds, [WEIGHTS[kind] for kind in kinds], k=count)
        made = []
        for kind in drawn:
            self._gap = kind in GAP_KINDS and bool(self.lexical_gap) and self.rng.random() < self.lexical_gap
            made.append(make[kind]())
        self.rng.shuffle(made)
        return made

    # ---- what is stated ----

    def _person(self) -> Entity:
        return self._draw.person(named=not self._gap)

    def _document(self) -> int:
        return self.rng.randrange(self.documents)

    def _tell(self, text: str, document: int, depth: float | None = None) -> None:
        self.statements.append(Statement(text, document, self._depth() if depth is None else depth))

    def _depth(self) -> float:
        return self.rng.choice((0.0, 1.0)) if self.rng.random() < EDGES else self.rng.uniform(*INSIDE)

    def _fact(self, person: Entity, relation: str, document: int, depth: float | None = None) -> Claim:
        """State a value of the person; return the claim."""
        [value] = self._draw.values(relation, 1)
        self._tell(state(Fact(person, relation, value), False, self.rng), document, depth)
        return self._stated(person, relation, value, document)

    def _stated(self, person: Entity, name: str, value: str, document: int) -> Claim:
        self._known.setdefault(person.told, (person, document, set()))[2].add(name)
        return person.told, name, value

    def _relation(self) -> str:
        return self.rng.choice(RELATIONS).name

    def _asks_link(self, kind: str) -> bool:
        return self._links_alone and self.rng.random() < LINK_ALONE[kind]

    # ---- the kinds of questions ----

    def _ask(self, person: Entity, relation: str) -> str:
        return self._worded(person.asked, relation, gap=person.told != person.asked)

    def _worded(self, asked: str, relation: str, gap: bool) -> str:
        if self.wordings == "environments":
            return facts.ask(asked, relation, gap)
        return question_wordings.ask(asked, relation, SPLIT, self.rng)

    def _single(self) -> ReaderQuestion:
        document, person = self._document(), self._person()
        if self._asks_link("single"):
            claim = self._link((person, self._person()), self.rng.choice(LINKS), document)
        else:
            claim = self._fact(person, self._relation(), document)
        return ReaderQuestion("single", self._ask(person, claim[1]), claim[2], document, claims=(claim,))

    def _multi_key(self) -> ReaderQuestion:
        relation, person = self._relation(), self._person()
        people = [(someone, self._document()) for someone in (person, *self._twins(person))]
        claims = [self._fact(someone, relation, document) for someone, document in people]
        asked = self.rng.randrange(len(people))
        text = self._ask(people[asked][0], relation)
        return ReaderQuestion("multi_key", text, claims[asked][2], people[asked][1], claims=tuple(claims))

    def _twins(self, person: Entity) -> list[Entity]:
        return [self._draw.twin(person) for _ in range(self.rng.randint(*TWINS))]

    def _linked(self) -> ReaderQuestion:
        people, links, relation = self._chain()
        home = self._document()
        apart = self.across and self.rng.random() < 0.5
        places = [self._document() if apart else home for _ in people]
        claims = [self._link(people[i : i + 2], link, places[i]) for i, link in enumerate(links)]
        value = self._fact(people[-1], relation, places[-1])
        self._lead_astray(people, links, relation, places)
        text = self._ask_chain(people[0], links, relation)
        steps = tuple(person.told for person in people[1:])
        return ReaderQuestion("linked", text, value[2], places[-1], len(people), steps, (*claims, value))

    def _chain(self) -> tuple[list[Entity], list[Link], str]:
        people = [self._person() for _ in range(self.rng.choices([*HOPS], [*HOPS.values()])[0])]
        return people, draw_links(len(people) - 1, self.rng), self._relation()

    def _link(self, pair: Sequence[Entity], link: Link, document: int) -> Claim:
        self._tell(sentence(self.rng.choice(link.told), e=pair[0].told, v=pair[1].told), document)
        if link.mutual:
            self._held_back.setdefault(pair[1].told, set()).add(link.name)
        return self._stated(pair[0], link.name, pair[1].told, document)

    def _lead_astray(
        self, people: Sequence[Entity], links: Sequence[Link], relation: str, places: Sequence[int]
    ) -> None:
        """State, for some chains, what is easily taken for their facts, as the environments do.

        Another link of someone on the way, to people who end in a value of the same relation: the kind of link alone tells
        it from the chain. And a link of the same kind of someone whose name is easily mistaken.
        """
        if self.rng.random() >= ASTRAY:
            return
        fork = self.rng.randrange(len(links))
        kinds = [self.rng.choice([link for link in LINKS if link is not links[fork]]), *links[fork + 1 :]]
        others = [people[fork], *(self._person() for _ in kinds)]
        for i, kind in enumerate(kinds):
            self._link(others[i : i + 2], kind, places[fork])
        self._fact(others[-1], relation, places[fork])
        near = self.rng.randrange(len(links))
        self._link((self._draw.twin(people[near]), self._person()), links[near], places[near])

    def _ask_chain(self, head: Entity, links: Sequence[Link], relation: str) -> str:
        """Return the question that follows the links from a person: step by step, or in one phrase inside another."""
        gap = head.told != head.asked
        if self.wordings == "environments":
            phrases = [link.asked_gap if gap else link.asked for link in links]
        else:
            phrases = [self.rng.choice(question_wordings.LINKS[link.name].of(SPLIT)) for link in links]
        if self.wordings == "environments" or self.rng.random() < 0.5:
            steps = [f"Go to {phrase.format(x='that person')}." for phrase in phrases]
            last = self._worded("the person you have come to", relation, gap)
            return " ".join([f"Start with {head.asked}.", *steps, last])
        person = head.asked
        for phrase in phrases:
            person = phrase.format(x=person)
        return self._worded(person, relation, gap)

    def _absent(self) -> ReaderQuestion:
        ways = (self._of_someone_else, self._of_something_else, self._cut_chain, self._mistaken)
        return self.rng.choice(ways)()

    def _of_someone_else(self) -> ReaderQuestion:
        """Ask about someone of whom no document says anything, half of them of nearly the name of someone known."""
        known = [*self._known.values()]
        like = self.rng.choice(known)[0] if known and self.rng.random() < 0.5 else None
        person = self._draw.twin(like) if like else self._person()
        return self._unanswered(person, self._document(), set())

    def _of_something_else(self) -> ReaderQuestion:
        """Ask for what no document says of someone of whom one says something else."""
        if not self._known:
            return self._of_someone_else()
        return self._unanswered(*self.rng.choice([*self._known.values()]))

    def _unanswered(self, person: Entity, document: int, stated: set[str]) -> ReaderQuestion:
        names = [one.name for one in (LINKS if self._asks_link("absent") else RELATIONS)]
        stated = stated | self._held_back.get(person.told, set())
        name = self.rng.choice([name for name in names if name not in stated])
        return ReaderQuestion("absent", self._ask(person, name), NONE, document, unsaid=((person.told, name),))

    def _mistaken(self) -> ReaderQuestion:
        """Ask for the value of someone where people whose names are easily mistaken alone have one."""
        relation, person, document = self._relation(), self._person(), self._document()
        for twin in self._twins(person):
            self._fact(twin, relation, document)
        unsaid = ((person.told, relation),)
        return ReaderQuestion("absent", self._ask(person, relation), NONE, document, unsaid=unsaid)

    def _cut_chain(self) -> ReaderQuestion:
        """Ask over links of which one fact is missing; the people passed before it can be named, as in a whole chain."""
        people, links, relation = self._chain()
        document, cut = self._document(), self.rng.randrange(len(people))
        stated = {i: self._link(people[i : i + 2], link, document) for i, link in enumerate(links) if i != cut}
        if cut < len(links):
            self._fact(people[-1], relation, document)
        self._lead_astray(people, links, relation, [document] * len(people))
        unsaid = ((people[cut].told, links[cut].name if cut < len(links) else relation),)
        passed = tuple(person.told for person in people[1 : cut + 1])
        claims = tuple(claim for i, claim in stated.items() if i < cut)
        text = self._ask_chain(people[0], links, relation)
        return ReaderQuestion("absent", text, NONE, document, len(people), passed, claims, unsaid)

    def _order(self) -> ReaderQuestion:
        document, early = self._document(), self.rng.uniform(INSIDE[0], INSIDE[1] - APART)
        depths = early, self.rng.uniform(early + APART, INSIDE[1])
        pair = [(self._person(), depth) for depth in depths]
        claims = tuple(self._fact(person, self._relation(), document, depth) for person, depth in pair)
        named = tuple(person.told for person, _ in pair)
        a, b = self.rng.sample(named, 2)
        text = self.rng.choice(ORDERS).format(a=a, b=b)
        return ReaderQuestion("order", text, named[0], document, claims=claims, named=named)

    def _count(self) -> ReaderQuestion:
        document, count = self._document(), self.rng.randint(*MATCHES)
        event, place = self._condition()
        for _ in range(count):
            self._tell(sentence(self.rng.choice(event.told), e=self._person().told, p=place), document)
        other, elsewhere = self._condition()  # someone who meets another
        self._tell(sentence(self.rng.choice(other.told), e=self._person().told, p=elsewhere), document)
        text = capitalised(self.rng.choice(COUNTS).format(c=event.asked.format(p=place)))
        return ReaderQuestion("count", text, str(count), document, meet=(event.name, place))

    def _condition(self) -> tuple[Event, str]:
        """Draw an event and a place that were not drawn together before."""
        while True:
            event, place = self.rng.choice(EVENTS), self.rng.choice(PLACES)[0]
            if (event.name, place) not in self._conditions:
                self._conditions.add((event.name, place))
                return event, place


def draw_links(n: int, rng: Random) -> list[Link]:
    """Draw the links of a chain; no mutual one follows itself, since it would lead back as well as on."""
    links: list[Link] = []
    for _ in range(n):
        link = rng.choice(LINKS)
        while link.mutual and links and link is links[-1]:
            link = rng.choice(LINKS)
        links.append(link)
    return links
