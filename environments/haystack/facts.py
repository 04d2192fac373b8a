"""Facts that no one can know without the text: entities, relations and values, and how they are worded and read back.

A fact is an edge of a graph: (entity, relation, value). `state` words it as a needle, `parse` reads a needle back. The
question is worded by the tasks from other templates. Train and eval share no entity and no value: each is drawn
until its checksum has the split's parity, so the two can never meet, whatever the seeds.
"""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TypeVar
from zlib import crc32

from environments.haystack.wording import reader, sentence
from longthread.errors import ConfigError

SPLITS = ("train", "eval")
DRAWS = 10_000  # of something in a split that holds half of everything: more than chance ever needs

T = TypeVar("T")


def in_split(text: str, split: str) -> bool:
    """Return True when an entity or a value belongs to the split, by parity of its CRC-32: each split has half of them."""
    return crc32(text.lower().encode()) % 2 == SPLITS.index(split)


def first_drawn(draw: Callable[[], T], wanted: Callable[[T], bool], what: str) -> T:
    """Call `draw` until `wanted` accepts its result, and return that.

    Raises `ConfigError`, which names `what`, after `DRAWS` draws.
    """
    for _ in range(DRAWS):
        if wanted(drawn := draw()):
            return drawn
    raise ConfigError(
        f"{what} was not found in {DRAWS} draws; ask for fewer facts, or add to the words they are made of"
    )


# ---- values: every kind has at least 2^32 members in each split, so none can be guessed or listed ----

WORDS = (
    "acorn alder alpine amber anchor anvil apple apron arbor arch arrow ash aspen atlas attic auburn autumn azure badge "
    "badger bagel bamboo banjo banner barley barn basil basin basket bay beach beacon bead beam bean bear beaver beech "
    "beet bell belt bench berry birch bison blanket blaze blossom blue boat bolt bonfire boot bottle bow branch brass "
    "bread breeze brick bridge bronze brook broom brush bucket buckle bud bugle burrow butter button cabin cactus cake "
    "camel candle canoe canvas canyon cape caramel cargo carrot cart castle cedar cello chain chalk cherry chess "
    "chestnut chime cider cinnamon citrus clam clay cliff clock cloth cloud clover coal coast cobalt cocoa coconut comb "
    "comet compass copper coral cork corn cotton cove crane crater cream creek cricket crimson crow crown crystal cube "
    "cup curtain cypress daisy dawn deer delta denim desert dew diamond dock dolphin domino donkey dove dragon drum duck "
    "dune dusk eagle earth ebony echo egret elder elk elm ember emerald engine fable falcon feather fern ferry fiddle "
    "field fig finch fir flame flax fleet flint flute foam fog forest fork fossil fountain fox frost garlic garnet gate "
    "geyser ginger glacier glass globe glove goat gold goose granite grape gravel green grove guitar gull hammer harbor "
    "hare harp harvest hawk hazel heath hedge helmet hemlock heron hickory hill hinge hive holly honey hood horizon horn "
    "husk ice indigo ink inlet iris iron island ivory ivy jacket jade jasmine jasper jelly jewel juniper kayak kelp "
    "kernel kettle kite kiwi knot ladder lagoon lake lamp lance lantern larch lark laurel lava lavender leaf leather "
    "ledge lemon lentil lily lime linen lion lizard loaf locket log loom lotus lumber lute lynx magnet magnolia mango "
    "mantle maple marble marigold maroon marsh mask mast meadow melon mesa meteor mill mint mirror mist mitten moon moose "
    "morning moss moth mountain mulberry mural musket mustard napkin nectar needle nest nickel nickname north nutmeg oak "
    "oar oasis oat ocean ochre olive onion onyx opal orange orbit orchard orchid otter owl oyster paddle palm panther "
    "paper parcel parrot pasture peach peak pear pearl pebble pelican pepper petal pewter pheasant piano pigeon pillow "
    "pilot pine pink pipe plank planet plaster plate plow plum pocket pond pony poplar poppy porch prairie prism pueblo "
    "puffin pulley pumpkin purple quail quarry quartz quill quilt rabbit radish raft rain ranch raven reed reef ribbon "
    "ridge ring river robin rocket roof root rope rose ruby rudder rust saddle saffron sage sail salmon salt sand "
    "sapphire satin scarf scarlet scroll seal seed shadow shell shield shore silk silver slate sled smoke snail snow sofa "
    "south sparrow spice spider spiral spoon spring spruce squash stable star steam steel stone stork storm straw stream "
    "sugar summer sun swallow swan syrup table tangerine tar teal temple thicket thistle thorn thunder thyme tide tiger "
    "timber tin toast topaz torch tower trail trout trumpet tulip tundra turnip turquoise turtle umber valley vanilla "
    "velvet vessel violet violin wagon walnut walrus water wave wax wheat wheel whistle willow wind window winter wolf "
    "wool wren yarn yew zebra zinc"
).split()

_ONSETS = "b br c d dr f g gr h j k l m n p qu r s st t th tr v w z".split()
_VOWELS = "a e i o u ai ea ia o e a i".split()
_CODAS = "l m n r s th nd rk sk lm x v d".split()


def _pseudonym(rng: Random, syllables: int) -> str:
    """A pronounceable name that is nobody's: about 3,700 of one syllable, 10^7 of two."""
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
    return ("".join(parts) + rng.choice(_CODAS)).capitalize()


def _number(rng: Random) -> str:
    return str(rng.randrange(10**9, 10**10))


def _words(rng: Random) -> str:
    return "-".join(rng.sample(WORDS, 4))


def _uuid(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _date(rng: Random) -> str:
    # To the second: a day alone would leave only some 700,000 to guess among.
    moment = datetime(1000, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(2000 * 365 * 86400))
    return f"{moment.day} {moment:%B} {moment.year} {moment:%H:%M:%S}"


def _name(rng: Random) -> str:
    return " ".join(_pseudonym(rng, 2) for _ in range(3))


@dataclass(frozen=True)
class ValueKind:
    """A kind of value: a function that draws one, and the pattern of a complete one in running text.

    The pattern never finds a part of a longer value.
    """

    draw: Callable[[Random], str]
    pattern: re.Pattern


_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
VALUE_KINDS = {
    "words": ValueKind(_words, re.compile(r"(?<![\w-])[A-Za-z]+(?:-[A-Za-z]+){3}(?![\w-])")),
    "numbers": ValueKind(_number, re.compile(r"(?<![\w-])(?:(?<!,\d{3},)\d{1,3}(?:,\d{3})+|\d{5,})(?![\w-])")),
    "uuids": ValueKind(_uuid, re.compile(r"(?<![\w-])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![\w-])")),
    "dates": ValueKind(_date, re.compile(rf"(?<!\w)\d{{1,2}} (?:{_MONTH}) \d{{4}},? \d{{2}}:\d{{2}}:\d{{2}}(?!\w)")),
    "names": ValueKind(_name, re.compile(r"(?<!\w)[A-Z][a-z]+(?: [A-Z][a-z]+){2}(?! ?[A-Z]\w)(?!\w)")),
}


def draw_value(kind: str, split: str, rng: Random) -> str:
    """Draw a value of a kind in `VALUE_KINDS` that belongs to the split. Raises `ConfigError` if none is found."""
    draw = VALUE_KINDS[kind].draw
    return first_drawn(lambda: draw(rng), lambda value: in_split(value, split), f"a value of kind {kind} in {split}")


def draw_values(kind: str, n: int, split: str, rng: Random) -> list[str]:
    """Draw `n` different values of a kind for the split, none of which is a part of another."""
    values: dict[str, None] = {}
    while True:
        while len(values) < n:
            values.setdefault(draw_value(kind, split, rng))
        text = "\n".join(values)  # one search a value: comparing each with each takes seconds for thousands
        if not (parts := [value for value in values if text.count(value) > 1]):
            return list(values)
        for value in parts:
            del values[value]


# ---- entities ----


@dataclass(frozen=True, slots=True)
class Entity:
    """A person whom a fact is about: `told` is how needles name them, `asked` how a question does.

    The two are the same, or share no content word where there is a lexical gap.
    """

    told: str
    asked: str


# Each pair names one thing twice without a common content word: as the needle says it, and as the question does.
TRADES = (
    ("baker", "maker of bread"), ("cobbler", "mender of shoes"), ("physician", "healer of the sick"),
    ("fisherman", "hauler of nets"), ("mason", "layer of bricks"), ("tailor", "cutter of suits"),
    ("beekeeper", "gatherer of honey"), ("blacksmith", "forger of horseshoes"), ("shepherd", "minder of flocks"),
    ("carpenter", "joiner of timber"), ("teacher", "instructor of pupils"), ("miner", "digger of ore"),
    ("sailor", "hand on ships"), ("gardener", "tender of flower beds"), ("butcher", "seller of meat"),
    ("brewer", "producer of ale"), ("potter", "shaper of clay"), ("librarian", "lender of books"),
    ("dentist", "puller of teeth"), ("astronomer", "student of the stars"), ("undertaker", "burier of the dead"),
    ("barber", "trimmer of hair"), ("lawyer", "attorney"), ("translator", "interpreter of languages"),
    ("hunter", "stalker of game"), ("poet", "writer of verse"), ("banker", "dealer in loans"),
    ("weaver", "worker at a loom"), ("locksmith", "fitter of latches"), ("chemist", "mixer of drugs"),
    ("coachman", "driver of carriages"), ("optician", "grinder of spectacles"),
)  # fmt: skip
TRAITS = (
    ("elderly", "old"), ("wealthy", "rich"), ("bald", "hairless"), ("stout", "fat"), ("shy", "timid"),
    ("cheerful", "merry"), ("quarrelsome", "argumentative"), ("generous", "open-handed"), ("brave", "fearless"),
    ("lazy", "idle"), ("clever", "intelligent"), ("famous", "celebrated"), ("sickly", "ailing"), ("lonely", "friendless"),
    ("polite", "well-mannered"), ("talkative", "chatty"), ("sightless", "blind"), ("thrifty", "frugal"),
    ("foreign", "overseas-born"), ("bearded", "unshaven"), ("pious", "devout"), ("sleepless", "wakeful"),
    ("vain", "conceited"), ("clumsy", "awkward"),
)  # fmt: skip
PLACES = (
    ("cemetery", "graveyard"), ("harbour", "port"), ("market", "trading stalls"), ("church", "house of worship"),
    ("prison", "jail"), ("theatre", "playhouse"), ("forest", "woods"), ("tavern", "inn"), ("hospital", "infirmary"),
    ("quarry", "stone pit"), ("orphanage", "home for parentless children"), ("courthouse", "hall of judges"),
    ("meadow", "pasture"), ("swamp", "bog"), ("palace", "royal residence"), ("brook", "small stream"),
    ("barracks", "soldiers' quarters"), ("school", "academy"), ("railway station", "train stop"),
    ("fortress", "citadel"), ("seashore", "beach"), ("cellar", "basement"), ("factory", "manufacturing plant"),
    ("convent", "nunnery"), ("post office", "mail room"), ("vineyard", "slope of grapes"), ("crossroads", "junction"),
    ("lighthouse", "beacon tower"),
)  # fmt: skip


def draw_entity(split: str, lexical_gap: bool, rng: Random) -> Entity:
    """Draw a person of the split: by an invented name or, with a lexical gap, by trade, trait and place."""
    draw = _draw_described if lexical_gap else _draw_named
    return first_drawn(lambda: draw(rng), lambda entity: in_split(entity.told, split), f"a person in {split}")


def _draw_named(rng: Random) -> Entity:
    name = f"{_pseudonym(rng, 1)} {_pseudonym(rng, 2)}"
    return Entity(name, name)


def _draw_described(rng: Random) -> Entity:
    return _described(rng.choice(TRAITS), rng.choice(TRADES), rng.choice(PLACES))


def _described(trait: tuple[str, str], trade: tuple[str, str], place: tuple[str, str]) -> Entity:
    return Entity(*(f"the {trait[i]} {trade[i]} by the {place[i]}" for i in (0, 1)))


def near_duplicate(entity: Entity, split: str, rng: Random) -> Entity:
    """Draw a person easily taken for the entity: a name one or two letters away, or a description with one part changed."""
    alter = _misspelt if entity.told == entity.asked else _redescribed
    return first_drawn(
        lambda: alter(entity, rng), lambda twin: in_split(twin.told, split), f"someone like {entity.told} in {split}"
    )


def _misspelt(entity: Entity, rng: Random) -> Entity:
    letters = list(entity.told)
    for i in rng.sample([i for i, letter in enumerate(letters) if letter.islower()], rng.randint(1, 2)):
        alike = "aeiou" if letters[i] in "aeiou" else "bcdfghjklmnprstvwz"
        letters[i] = rng.choice([letter for letter in alike if letter != letters[i]])
    return Entity("".join(letters), "".join(letters))


def _redescribed(entity: Entity, rng: Random) -> Entity:
    tables = (TRAITS, TRADES, PLACES)
    parts = [
        next(pair for pair in TRAITS if entity.told.startswith(f"the {pair[0]} ")),
        next(pair for pair in TRADES if f" {pair[0]} by the " in entity.told),
        next(pair for pair in PLACES if entity.told.endswith(f" by the {pair[0]}")),
    ]
    i = rng.randrange(3)
    parts[i] = rng.choice([pair for pair in tables[i] if pair != parts[i]])
    return _described(*parts)


# ---- relations ----


@dataclass(frozen=True)
class Relation:
    """What is said of an entity. `{e}` is the entity, `{v}` the value.

    `told` words a needle; `told_one_of` does where the entity has several values. `asked` may repeat the needle's words;
    `asked_gap` shares no content word with `told`. `{s}` is "" for one value and "s" for several, `{is_}` its verb.
    """

    name: str
    kind: str
    told: tuple[str, ...]
    told_one_of: tuple[str, ...]
    asked: str
    asked_gap: str
    noun: tuple[str, str]  # for several entities at once: (with the needle's words, without)


RELATIONS = (
    Relation(
        "combination", "numbers",
        ("The combination that {e} uses for the safe is {v}.",
         "For the safe, {e} always sets the combination {v}.",
         "The safe of {e} only yields to the combination {v}."),
        ("One combination that {e} uses for the safe is {v}.",
         "A combination that opens the safe of {e} is {v}."),
        "What {is_} the combination{s} that {e} uses for the safe?",
        "Which digits does {e} dial to unlock the strongbox?",
        ("the combinations for the safe", "the digits dialled to unlock the strongbox"),
    ),
    Relation(
        "password", "words",
        ("The password that {e} agreed upon is {v}.",
         "At the gate, {e} answers to the password {v}.",
         "The password chosen by {e} remains {v}."),
        ("One password that {e} agreed upon is {v}.",
         "A password to which {e} answers is {v}."),
        "What {is_} the password{s} that {e} agreed upon?",
        "Which secret phrase{s} must a visitor whisper to {e}?",
        ("the passwords agreed upon", "the secret phrases a visitor must whisper"),
    ),
    Relation(
        "registration", "uuids",
        ("The registration number of {e} is {v}.",
         "The office keeps the registration of {e} as {v}.",
         "On the form, {e} gave the registration number {v}."),
        ("One registration number of {e} is {v}.",
         "A registration that the office keeps of {e} is {v}."),
        "What {is_} the registration number{s} of {e}?",
        "Under which identifier{s} is {e} listed in the rolls?",
        ("the registration numbers", "the identifiers listed in the rolls"),
    ),
    Relation(
        "contract", "dates",
        ("The contract was signed by {e} on {v}.",
         "On the last page, {e} dated the signature {v}.",
         "The signature of {e} under the contract bears the date {v}."),
        ("One contract was signed by {e} on {v}.",
         "A signature of {e} under a contract bears the date {v}."),
        "When did {e} sign the contract{s}?",
        "At what moment{s} did {e} put pen to the agreement?",
        ("the dates on which the contract was signed", "the moments at which pen was put to the agreement"),
    ),
    Relation(
        "heir", "names",
        ("The heir named by {e} is {v}.",
         "In the will, {e} names as heir {v}.",
         "The will of {e} leaves everything to {v}."),
        ("One heir named by {e} is {v}.",
         "A person whom {e} names as heir in the will is {v}."),
        "Who {is_} the heir{s} named by {e}?",
        "Who inherits the estate upon the death of {e}?",
        ("the heirs named in the will", "those who inherit the estate"),
    ),
)  # fmt: skip
RELATION = {relation.name: relation for relation in RELATIONS}
BY_KIND = {relation.kind: relation for relation in RELATIONS}


@dataclass(frozen=True, slots=True)
class Fact:
    """An edge of the graph of facts: an entity, a relation and its value."""

    entity: Entity
    relation: str
    value: str


def state(fact: Fact, one_of: bool, rng: Random) -> str:
    """Return the fact as one sentence; `one_of`: worded as one of several values of the entity."""
    relation = RELATION[fact.relation]
    template = rng.choice(relation.told_one_of if one_of else relation.told)
    return sentence(template, e=fact.entity.told, v=fact.value)


def ask(entity: str, relation: str, gap: bool, several: bool = False) -> str:
    """Return the question for an entity's value or, with `several`, its values; `gap`: in other words than the needle's."""
    template = RELATION[relation].asked_gap if gap else RELATION[relation].asked
    return template.format(e=entity, s="s" if several else "", is_="are" if several else "is")


READERS = [(r.name, reader(template)) for r in RELATIONS for template in r.told + r.told_one_of]


def parse(text: str) -> list[tuple[str, str, str]]:
    """Return every fact stated in a text, as (entity as told, relation, value), sorted: needles read back by themselves."""
    facts = {(match["e"], name, match["v"]) for name, pattern in READERS for match in pattern.finditer(text)}
    return sorted(facts)
