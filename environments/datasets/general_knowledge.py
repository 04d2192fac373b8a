"""General questions with short answers, of which a small model knows most: what it should go on knowing after training.

    found = ask(ServerAddress(url, key, model), Path("general.jsonl"))     # {"capitals": Share(29, 34), …}

None of them is asked in the conversations that keep a model's knowledge in training (`general_questions`), nor by `lift`. A
reply is right if its first line states an answer, as whole words; no answer stands in its own question.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from environments.inference.contracts import ServerAddress
from environments.inference.greedy import greedy_replies
from environments.inference.preflight import check_server
from environments.rollouts.thinking import without_thinking
from longthread.files import end_with_a_line, read_jsonl
from longthread.statistics import Share

REPLY_TOKENS = 40
FIRST = 200  # characters of a reply's first line that count


class GeneralQuestion(NamedTuple):
    """A question of a kind, and its answers, of which a reply has to state one."""

    kind: str
    text: str
    answers: tuple[str, ...]

    def right(self, reply: str) -> bool:
        """Return whether a reply states an answer. A single letter must be a capital: "a" is a word."""
        line = reply.strip().partition("\n")[0][:FIRST]
        return any(
            re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", line, 0 if len(answer) == 1 else re.IGNORECASE)
            for answer in self.answers
        )


def questions() -> list[GeneralQuestion]:
    """Return all questions, the same at each call."""
    return [*_listed(), *_computed(Random("general knowledge"))]


def ask(server: ServerAddress, path: Path, progress: bool = False) -> dict[str, Share]:
    """Have a served model answer what it was not asked yet, greedily; return how many are right of each kind.

    `path`: JSON lines of question, reply, and whether it is right. Raises `ConfigError` for a server that cannot be
    reached, and `RunError` where it fails later.
    """
    known: set[str] = set()
    if path.exists():
        end_with_a_line(path)
        known = {row["question"] for row in read_jsonl(path)}
    if wanted := [question for question in questions() if question.text not in known]:
        asyncio.run(check_server(server))
        path.parent.mkdir(parents=True, exist_ok=True)
        asyncio.run(_ask(server, wanted, path, progress))
    return shares(path)


async def _ask(server: ServerAddress, wanted: list[GeneralQuestion], path: Path, progress: bool) -> None:
    texts = [question.text for question in wanted]
    with path.open("a", encoding="utf-8") as file:
        replies = greedy_replies(server, texts, REPLY_TOKENS, "general questions" if progress else "")
        async for number, completion in replies:
            asked, reply = wanted[number], without_thinking(completion.text)
            row = {"kind": asked.kind, "question": asked.text, "reply": reply, "right": asked.right(reply)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()


def shares(path: Path) -> dict[str, Share]:
    """Return how many replies of a file are right, of each kind."""
    found: dict[str, list[bool]] = {}
    for row in read_jsonl(path):
        found.setdefault(row["kind"], []).append(row["right"])
    return {kind: Share(sum(right), len(right)) for kind, right in found.items()}


# ---- the questions ----------------------------------------------------------------------------------------------

# The kind, the question, and lines of what stands in it and its answers.
TABLES: tuple[tuple[str, str, str], ...] = (
    ("capitals", "What is the capital of {}?", """
the Netherlands: Amsterdam; Iceland: Reykjavik, Reykjavík; South Korea: Seoul; the Czech Republic: Prague; Romania: Bucharest
Bulgaria: Sofia; Serbia: Belgrade; Croatia: Zagreb; Ukraine: Kyiv, Kiev; Pakistan: Islamabad; Bangladesh: Dhaka
Nepal: Kathmandu; the Philippines: Manila; Malaysia: Kuala Lumpur; New Zealand: Wellington; Colombia: Bogotá, Bogota
Ecuador: Quito; Uruguay: Montevideo; Venezuela: Caracas; Bolivia: La Paz, Sucre; Ethiopia: Addis Ababa; Ghana: Accra
Algeria: Algiers; Syria: Damascus; Lebanon: Beirut; Afghanistan: Kabul; Saudi Arabia: Riyadh; Jordan: Amman; Libya: Tripoli
Senegal: Dakar; Uganda: Kampala; Jamaica: Kingston; Slovakia: Bratislava; Zimbabwe: Harare"""),
    ("opposites", "What is the opposite of {}?", """
high: low; good: bad, evil; black: white; tall: short; deep: shallow; thin: thick, fat; hard: soft, easy; far: near, close
rough: smooth; noisy: quiet, silent; cheap: expensive, costly; dark: light, bright; narrow: wide, broad; tight: loose
front: back, rear; top: bottom; push: pull; north: south; east: west; male: female; friend: enemy, foe; peace: war
life: death; question: answer; morning: evening, night; summer: winter; heaven: hell; victory: defeat, loss
arrive: leave, depart; accept: reject, refuse"""),
    ("plurals", "What is the plural of the word {}?", """
baby: babies; country: countries; lady: ladies; story: stories; party: parties; wife: wives; life: lives; half: halves
shelf: shelves; thief: thieves; loaf: loaves; calf: calves; potato: potatoes; tomato: tomatoes; bus: buses, busses
glass: glasses; church: churches; dish: dishes; person: people, persons; cherry: cherries; scarf: scarves, scarfs
cactus: cacti, cactuses; fly: flies; toy: toys"""),
    ("past tenses", "What is the past tense of the verb {}?", """
come: came; give: gave; find: found; make: made; say: said; tell: told; feel: felt; leave: left; keep: kept; hold: held
stand: stood; lose: lost; meet: met; pay: paid; send: sent; build: built; fall: fell; catch: caught; choose: chose
draw: drew; hide: hid; ride: rode; rise: rose; shake: shook; steal: stole; throw: threw; wake: woke; wear: wore; win: won
forget: forgot"""),
    ("the calendar", "Which month comes before {}?", """
January: December; February: January; March: February; April: March; May: April; June: May; July: June; August: July
September: August; October: September; November: October; December: November"""),
    ("the calendar", "Which day of the week comes after {}?", """
Tuesday: Wednesday; Wednesday: Thursday; Thursday: Friday; Friday: Saturday; Saturday: Sunday; Sunday: Monday"""),
    ("the alphabet", "Which letter of the alphabet comes after {}?", """
B: C; C: D; D: E; E: F; F: G; G: H; I: J; J: K; K: L; L: M; M: N; N: O; O: P; P: Q; Q: R; R: S; S: T; T: U; V: W; X: Y"""),
    ("numbers of things", "How many {}?", """
minutes are there in an hour: 60, sixty; seconds are there in a minute: 60, sixty; hours are there in a day: 24, twenty-four
weeks are there in a year: 52, fifty-two; days are there in a year: 365; centimetres are there in a metre: 100, hundred
grams are there in a kilogram: 1000, 1,000, thousand; years are there in a century: 100, hundred
years are there in a decade: 10, ten; sides does a triangle have: 3, three; sides does a square have: 4, four
sides does a hexagon have: 6, six; wheels does a bicycle have: 2, two; legs does a dog have: 4, four
legs does an insect have: 6, six; letters does the English alphabet have: 26, twenty-six; continents are there: 7, seven
planets does the solar system have: 8, eight; colours does a rainbow have: 7, seven; cents are there in a dollar: 100, hundred
players does a football team have on the field: 11, eleven; strings does a violin have: 4, four; eggs are a dozen: 12, twelve
days does April have: 30, thirty; degrees does a right angle have: 90, ninety; degrees does a full circle have: 360
inches are there in a foot: 12, twelve; feet are there in a yard: 3, three; eyes does a cat have: 2, two
days are there in a fortnight: 14, fourteen"""),
    ("young animals", "What is a young {} called?", """
dog: puppy, pup; cat: kitten; cow: calf; horse: foal, colt, filly; sheep: lamb; lion: cub; duck: duckling; frog: tadpole
kangaroo: joey; pig: piglet; goat: kid; swan: cygnet; deer: fawn; goose: gosling"""),
    ("sounds", "Which animal says {}?", """
moo: cow, cows; woof: dog, dogs; oink: pig, pigs; baa: sheep, lamb; quack: duck, ducks; roar: lion, lions, tiger
hiss: snake, snakes; neigh: horse, horses"""),
    ("symbols", "What is the chemical symbol of {}?", """
gold: Au; silver: Ag; iron: Fe; hydrogen: H; carbon: C; sodium: Na; helium: He; copper: Cu; calcium: Ca; lead: Pb"""),
    ("the world", "Which {}?", """
gas do people have to breathe to live: oxygen; planet is known as the red planet: Mars; star is nearest to the Earth: sun
ocean is the largest: Pacific; mountain is the highest on Earth: Everest; country is the largest by area: Russia
metal is liquid at room temperature: mercury; force makes things fall to the ground: gravity, gravitational
stone is the hardest of all: diamond; organ pumps blood through the body: heart; planet is nearest to the sun: Mercury
river flows through Egypt: Nile; desert is the largest hot one: Sahara; language has most native speakers: Mandarin, Chinese
animal is the tallest: giraffe; animal is the largest of all: blue whale, whale; bird cannot fly and is the largest: ostrich
continent is the coldest: Antarctica; organ do people think with: brain; instrument has 88 keys: piano
meal is eaten in the morning: breakfast; season comes after winter: spring; season comes after summer: autumn, fall"""),
    ("famous people", "Who {}?", """
invented the telephone: Bell; developed the theory of relativity: Einstein; painted the Mona Lisa: Leonardo, da Vinci
wrote the novel 1984: Orwell; wrote The Hobbit: Tolkien; wrote the books about Harry Potter: Rowling
wrote the stories about Sherlock Holmes: Doyle; was the first man on the moon: Armstrong; discovered penicillin: Fleming
was the first president of the United States: Washington; painted The Starry Night: van Gogh, Gogh
wrote The Adventures of Tom Sawyer: Twain, Clemens; composed the opera The Magic Flute: Mozart"""),
    ("languages", "Which language do most people in {} speak?", """
the Netherlands: Dutch; Pakistan: Urdu, Punjabi; Ukraine: Ukrainian; Romania: Romanian; Colombia: Spanish; Germany: German
France: French; Japan: Japanese; Egypt: Arabic; Russia: Russian; Italy: Italian; Greece: Greek"""),
    ("professions", "What is somebody called who {}?", """
bakes bread: baker; flies a plane: pilot; puts out fires: firefighter, fireman; teaches children at school: teacher
paints pictures: painter, artist; catches fish: fisherman, fisher, angler; cuts hair: barber, hairdresser
heals teeth: dentist; writes books: author, writer; cooks in a restaurant: chef, cook; sings songs: singer, vocalist
grows crops: farmer"""),
)  # fmt: skip

# The kind, the question, and what is computed of its two numbers.
SUMS = (
    ("sums", "What do {} and {} add up to?", lambda a, b: a + b),
    ("differences", "What is left when {1} is taken from {0}?", lambda a, b: a - b),
    ("products", "How much is {} multiplied by {}?", lambda a, b: a * b),
    ("quotients", "How much is {} divided by {}?", lambda a, b: a // b),
)
OF_EACH = {"sums": 24, "differences": 15, "products": 15, "quotients": 15}


def _listed() -> Iterator[GeneralQuestion]:
    for kind, question, lines in TABLES:
        for entry in lines.strip().replace("\n", "; ").split("; "):
            what, _, answers = entry.partition(": ")
            yield GeneralQuestion(kind, question.format(what), tuple(re.split(r", (?!\d{3})", answers)))


def _computed(rng: Random) -> Iterator[GeneralQuestion]:
    for kind, question, result in SUMS:
        made: dict[str, GeneralQuestion] = {}
        while len(made) < OF_EACH[kind]:
            a, b = rng.randrange(12, 60), rng.randrange(3, 12)
            if kind == "products":
                a = rng.randrange(3, 13)
            if kind == "quotients":
                a = b * rng.randrange(3, 13)
            if (answer := result(a, b)) not in (a, b):
                text = question.format(a, b)
                made[text] = GeneralQuestion(kind, text, (str(answer),))
        yield from made.values()
