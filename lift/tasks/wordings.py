"""How facts are asked for: wordings to train on, and others, never trained on, to be asked with.

`{e}` is a person or a description of one, `{v}` a value, `{x}` the person before in a chain. The held-out wordings
hold those of `environments.haystack` too (`asked`, `asked_gap`), so a fact asked there is asked in new words.
A wording with `{e}'s` is for names only: "the cousin of Ann's password" would be another question.
"""

from dataclasses import dataclass

from environments.haystack.facts import RELATION
from environments.haystack.links import LINK


@dataclass(frozen=True)
class Wordings:
    train: tuple[str, ...]
    eval: tuple[str, ...]

    def of(self, split: str, described: bool = False) -> tuple[str, ...]:
        """Those of a split; for someone who is `described` and not named, only those without a genitive."""
        wordings = self.train if split == "train" else self.eval
        return tuple(wording for wording in wordings if not (described and "{e}'s" in wording))


def described(person: str) -> bool:
    return person.startswith("the ")


def _asked(relation: str, train: tuple[str, ...], held_out: tuple[str, ...]) -> Wordings:
    known = RELATION[relation]
    theirs = tuple(wording.format(e="{e}", s="", is_="is") for wording in (known.asked, known.asked_gap))
    return Wordings(train, held_out + theirs)


def _linked(link: str, train: tuple[str, ...], *held_out: str) -> Wordings:
    return Wordings(train, (*held_out, LINK[link].asked, LINK[link].asked_gap))


FACTS = {
    "combination": _asked(
        "combination",
        ("What combination opens the safe of {e}?", "Give the safe combination of {e}.", "{e}'s safe combination is",
         "To open the safe of {e}, one has to set", "Tell me the combination for the safe of {e}.",
         "Which number is the safe of {e} locked with?", "Safe combination of {e}:"),
        ("How does one get into the safe that belongs to {e}? State the number.",
         "A burglar stands before the strongbox of {e}. Which digits would help?",
         "I forgot the number for the safe of {e}. Remind me."),
    ),
    "password": _asked(
        "password",
        ("What is the password of {e}?", "Give the password that {e} chose.", "{e}'s password is",
         "Which password does {e} answer to?", "Tell me the password of {e}.", "The password agreed upon with {e} is",
         "Password of {e}:"),
        ("With which words does one make {e} open the gate?", "State the secret word on which {e} settled.",
         "By what phrase does {e} know a friend?"),
    ),
    "registration": _asked(
        "registration",
        ("Which registration number does {e} have?", "Give the registration number of {e}.",
         "{e}'s registration number is", "Under which number is {e} registered?",
         "Tell me the number under which the office keeps {e}.", "The office has registered {e} as",
         "Registration number of {e}:"),
        ("A clerk looks up the file of {e}. Which identifier does it bear?",
         "State the code that {e} wrote on the form.", "Which number stands for {e} in the register?"),
    ),
    "contract": _asked(
        "contract",
        ("On what date did {e} sign the contract?", "Give the date and time at which {e} signed the contract.",
         "{e}'s signature under the contract is dated", "{e} signed the contract on",
         "When was the contract signed by {e}?", "Tell me the date of the signature of {e}.",
         "Date of the contract of {e}:"),
        ("When did the deal with {e} become binding? State day and time.",
         "Which date stands beside the name of {e} on the last page?",
         "I need the day and the hour of the signature that {e} gave."),
    ),
    "heir": _asked(
        "heir",
        ("Who is the heir of {e}?", "Give the name of the heir of {e}.", "{e}'s heir is",
         "Whom does {e} name as heir?", "Tell me who is named as heir in the will of {e}.",
         "In the will, {e} leaves everything to", "Heir of {e}:"),
        ("To whom will the belongings of {e} go one day?", "State who comes into the fortune of {e}.",
         "After the funeral of {e}, who owns the house?"),
    ),
}  # fmt: skip

REVERSED = {
    "combination": Wordings(
        ("Whose safe opens with {v}?", "Who uses the combination {v}?",
         "Name the person whose safe combination is {v}.", "The combination {v} belongs to",
         "To whom does the combination {v} belong?", "{v} is the safe combination of"),
        ("Somebody dials {v} at a safe. Who is it?", "Which person has a strongbox that yields to {v}?",
         "State the owner of the safe locked with {v}."),
    ),
    "password": Wordings(
        ("Whose password is {v}?", "Who answers to the password {v}?", "Name the person who chose the password {v}.",
         "The password {v} belongs to", "To whom does the password {v} belong?", "{v} is the password of"),
        ("Somebody at the gate whispers {v}. Who lets them in?", "Which person agreed upon {v} as the secret phrase?",
         "State who settled on the words {v}."),
    ),
    "registration": Wordings(
        ("Whose registration number is {v}?", "Who is registered under {v}?",
         "Name the person with the registration number {v}.", "The registration number {v} belongs to",
         "To whom does the registration number {v} belong?", "{v} is the registration number of"),
        ("A file bears the identifier {v}. About whom is it?", "Which person do the rolls list as {v}?",
         "State who wrote {v} on the form."),
    ),
    "contract": Wordings(
        ("Who signed the contract on {v}?", "Whose signature is dated {v}?",
         "Name the person who signed the contract on {v}.", "The contract of {v} was signed by",
         "By whom was the contract signed on {v}?", "{v} is the date of the contract of"),
        ("An agreement became binding on {v}. Who put pen to it?", "Which person dated the last page {v}?",
         "State whose name stands beside {v}."),
    ),
    "heir": Wordings(
        ("Whose heir is {v}?", "Who names {v} as heir?", "Name the person who leaves everything to {v}.",
         "The will that names {v} is that of", "By whom was {v} named as heir?", "{v} is the heir of"),
        ("One day {v} comes into a fortune. Who leaves it?", "Upon whose death does {v} inherit?",
         "State from whom {v} gets the estate."),
    ),
}  # fmt: skip

LINKS = {
    "tutor": _linked(
        "tutor", ("the teacher of {x}", "the person who taught the craft to {x}", "the one who trained {x}"),
        "the person whose lessons {x} took"),
    "creditor": _linked(
        "creditor", ("the creditor of {x}", "the person with a claim on {x} for money", "the one whom {x} pays back"),
        "the person from whom {x} once borrowed"),
    "neighbour": _linked(
        "neighbour",
        ("the person with the garden next to that of {x}", "the person next door to {x}",
         "the one whose garden borders on that of {x}"),
        "the person across the fence from {x}"),
    "employer": _linked(
        "employer", ("the boss of {x}", "the person from whom {x} takes orders", "the one who employs {x}"),
        "the person in whose service {x} stands"),
    "letters": _linked(
        "letters",
        ("the person who gets the letters of {x}", "the one to whom {x} writes", "the reader of the letters from {x}"),
        "the person whose post comes from {x}"),
    "cousin": _linked(
        "cousin", ("the person of whom {x} is a cousin", "the one who is a cousin of {x}", "the cousin that {x} has"),
        "the child of an aunt or uncle of {x}"),
    "landlord": _linked(
        "landlord",
        ("the owner of the lodgings of {x}", "the one who collects the rent of {x}", "the person who lets to {x}"),
        "the person under whose roof {x} rents"),
    "election": _linked(
        "election",
        ("the one who beat {x} in the election", "the person elected mayor instead of {x}",
         "the winner of the vote against {x}"),
        "the candidate whom the voters preferred to {x}"),
}  # fmt: skip
FRAMES = Wordings(("Who is {np}?", "Name {np}.", "{np} is"), ("State the name of {np}.", "{np}: who is that?"))
