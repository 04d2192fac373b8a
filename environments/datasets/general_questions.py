"""General questions, each drawn from a template and a list of things to ask about: what a model knows without any text.

They keep a model's knowledge where it is trained on documents, so they ask about much, in many ways. What an evaluation of
general knowledge asks (`lift.tasks.synthetic_document.unrelated`) is not among them.
"""

from collections.abc import Callable
from random import Random

from environments.haystack.facts import WORDS

COUNTRIES = (
    "Portugal Norway Sweden Finland Denmark Poland Austria Hungary Turkey India Australia Canada Mexico Brazil Argentina "
    "Chile Peru Cuba Kenya Nigeria Morocco Iran Iraq Israel Thailand Vietnam Indonesia Ireland Belgium Switzerland"
).split()
COLOURED = (
    "a ripe tomato, a lemon, blood, chocolate, the sea, the sun, milk, a carrot, a rose, an elephant, gold, a frog, a raven, "
    "a stop sign, wood, a cucumber, a strawberry, ivory, smoke, a flamingo"
).split(", ")
OPPOSITES = (
    "open fast strong light full happy rich young clean dry easy loud near old short soft sweet thick true weak wide new "
    "first inside always buy win love begin remember"
).split()
ANIMALS = (
    "dog cow sheep horse pig duck hen lion wolf bee ant snake eagle dolphin whale frog mouse rabbit owl bear camel monkey"
).split()
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Tuesday Wednesday Thursday Friday Saturday Sunday".split()
IDEAS = (
    "gravity, photosynthesis, democracy, electricity, evolution, inflation, a volcano, an earthquake, a vaccine, a prime "
    "number, a triangle, the internet, an atom, the heart, oxygen, a poem, a symphony, a thermometer, a magnet, a desert, "
    "a glacier, friendship, courage, a budget, a vitamin, the moon, a comet, steam, a bridge, a library"
).split(", ")
PEOPLE = (
    "Albert Einstein, Isaac Newton, Marie Curie, Napoleon, Mozart, Beethoven, Leonardo da Vinci, Charles Darwin, Galileo, "
    "Abraham Lincoln, Cleopatra, Julius Caesar, Gandhi, Columbus, Picasso, Plato, Aristotle, Bach"
).split(", ")
BOOKS = (
    "Hamlet, Don Quixote, War and Peace, Pride and Prejudice, the Odyssey, Faust, Robinson Crusoe, Oliver Twist, Moby-Dick, "
    "Frankenstein, Dracula, Alice in Wonderland, Les Misérables, Emma, Treasure Island"
).split(", ")
DOINGS = (
    "sleep better, learn a language, cook rice, save money, plant a tree, write a letter, stay healthy, paint a wall, bake "
    "bread, make friends, read more, train a dog, wash wool, boil an egg, find a job, ride a bicycle"
).split(", ")
VERBS = "go see take run write sing bring teach fly eat swim break speak drive buy think grow know".split()
NOUNS = "child mouse foot tooth man woman leaf knife city goose ox wolf box fish hero".split()
SYNONYMS = "begin big small happy angry quick clever brave tired strange large quiet smart end help house road".split()

GENERAL: tuple[tuple[str, Callable[[Random], str]], ...] = (
    ("sums", lambda rng: f"What is {rng.randrange(2, 60)} plus {rng.randrange(2, 60)}?"),
    ("sums", lambda rng: f"What is {rng.randrange(5, 12)} + {rng.randrange(4, 12)}?"),
    ("differences", lambda rng: f"What is {rng.randrange(11, 40)} - {rng.randrange(1, 11)}?"),
    ("products", lambda rng: f"What is {rng.randrange(4, 10)} times {rng.randrange(2, 10)}?"),
    ("halves", lambda rng: f"What is half of {2 * rng.randrange(11, 60)}?"),
    ("numbers", lambda rng: f"Which number comes after {rng.randrange(10, 1000)}?"),
    ("words", lambda rng: f"Use the word {rng.choice(WORDS)} in a sentence."),
    ("spelling", lambda rng: f"With which letter does the word {rng.choice(WORDS)} begin?"),
    ("rhymes", lambda rng: f"Name a word that rhymes with {rng.choice(WORDS)}."),
    ("everyday things", lambda rng: f"What is {rng.choice(WORDS)} used for?"),
    ("kinds of things", lambda rng: f"What kind of thing is {rng.choice(WORDS)}?"),
    ("languages", lambda rng: f"What is the French word for {rng.choice(WORDS)}?"),
    ("the world", lambda rng: f"Where would one find {rng.choice(WORDS)}?"),
    ("trade", lambda rng: f"Which country is known for {rng.choice(WORDS)}?"),
    ("work", lambda rng: f"Who needs {rng.choice(WORDS)} at work?"),
    ("stories", lambda rng: f"What could a story about {rng.choice(WORDS)} be called?"),
    ("capitals", lambda rng: f"What is the capital of {rng.choice(COUNTRIES)}?"),
    ("continents", lambda rng: f"On which continent is {rng.choice(COUNTRIES)}?"),
    ("countries", lambda rng: f"Which language is spoken in {rng.choice(COUNTRIES)}?"),
    ("countries", lambda rng: f"Name a country that borders on {rng.choice(COUNTRIES)}."),
    ("colours", lambda rng: f"What colour is {rng.choice(COLOURED)}?"),
    ("opposites", lambda rng: f"What is the opposite of {rng.choice(OPPOSITES)}?"),
    ("synonyms", lambda rng: f"Name another word for {rng.choice(SYNONYMS)}."),
    ("animals", lambda rng: f"What does a {rng.choice(ANIMALS)} eat?"),
    ("animals", lambda rng: f"Where does a {rng.choice(ANIMALS)} live?"),
    ("animals", lambda rng: f"What is special about the {rng.choice(ANIMALS)}?"),
    ("the calendar", lambda rng: f"Which month comes after {rng.choice(MONTHS)}?"),
    ("the calendar", lambda rng: f"Which day comes before {rng.choice(DAYS)}?"),
    ("ideas", lambda rng: f"What is {rng.choice(IDEAS)}?"),
    ("ideas", lambda rng: f"Explain {rng.choice(IDEAS)} in one sentence."),
    ("famous people", lambda rng: f"Who was {rng.choice(PEOPLE)}?"),
    ("famous people", lambda rng: f"What is {rng.choice(PEOPLE)} famous for?"),
    ("books", lambda rng: f"Who wrote {rng.choice(BOOKS)}?"),
    ("books", lambda rng: f"What is {rng.choice(BOOKS)} about?"),
    ("advice", lambda rng: f"How does one {rng.choice(DOINGS)}?"),
    ("advice", lambda rng: f"Give one piece of advice to somebody who wants to {rng.choice(DOINGS)}."),
    ("grammar", lambda rng: f"What is the past tense of {rng.choice(VERBS)}?"),
    ("grammar", lambda rng: f"What is the plural of {rng.choice(NOUNS)}?"),
    ("poems", lambda rng: f"Write two lines of verse about {rng.choice(WORDS)}."),
    ("things", lambda rng: f"What is {rng.choice(WORDS)} made of?"),
    ("lists", lambda rng: f"Name three things that go with {rng.choice(WORDS)}."),
)
