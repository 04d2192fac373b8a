"""How questions about facts are worded: some wordings for training, others held out for evaluation.

`{e}` is a person or a description of one, `{v}` a value, `{x}` the person before in a chain. The held-out wordings
hold those of `environments.haystack` too (`asked`, `asked_gap`), so a fact asked there is asked in new words.
A wording with `{e}'s` is for names only: "the cousin of Ann's password" would be another question.
"""

from dataclasses import dataclass
from random import Random

from environments.haystack.facts import RELATION
from environments.haystack.question_phrases import PHRASES
from environments.haystack.tasks.linked_wordings import LINK
from environments.haystack.wording import sentence


@dataclass(frozen=True)
class Wordings:
    """The wordings of one question: those for training, and those held out for evaluation."""

    train: tuple[str, ...]
    eval: tuple[str, ...]

    def of(self, split: str, described: bool = False) -> tuple[str, ...]:
        """Return the wordings of a split; without genitives (`{e}'s`) for a person who is `described`, not named."""
        wordings = self.train if split == "train" else self.eval
        return tuple(wording for wording in wordings if not (described and "{e}'s" in wording))


def described(person: str) -> bool:
    """Return whether a person is described ("the teacher of X", "whoever taught X") and not named."""
    return person.startswith(("the ", "whoever "))


def _asked(relation: str, train: tuple[str, ...], held_out: tuple[str, ...]) -> Wordings:
    known = RELATION[relation]
    theirs = tuple(wording.format(e="{e}", s="", is_="is") for wording in (known.asked, known.asked_gap))
    return Wordings(train + PHRASES[relation].wordings(), held_out + theirs)


def _linked(link: str, train: tuple[str, ...], *held_out: str) -> Wordings:
    return Wordings(train, (*held_out, LINK[link].asked, LINK[link].asked_gap))


FACTS = {
    "combination": _asked(
        "combination",
        ("What combination opens the safe of {e}?", "Give the safe combination of {e}.", "{e}'s safe combination is",
         "To open the safe of {e}, one has to set", "Tell me the combination for the safe of {e}.",
         "Which number is the safe of {e} locked with?", "Safe combination of {e}:",
         "{e}: which combination does the safe take?",
         "I want to know how the safe of {e} is opened. What is the combination?",
         "Could you tell me to which number the lock on the safe of {e} is set?",
         "The safe of {e} is opened by entering", "What has to be entered for the safe of {e} to spring open?",
         "Write down the combination behind which {e} keeps the valuables.",
         "Do you happen to know which number {e} has chosen for the safe?",
         "A locksmith has come for the safe of {e} and asks how it is set. Answer.",
         "By which number is the vault of {e} secured?",
         "Someone is to fetch papers out of the safe of {e}. Which combination do they need?", "{e}'s vault opens with",
         "The lock on the vault of {e} is set to", "Please look up what {e} has as the combination of the safe.",
         "The safe of {e} stays shut on a wrong number. What is the right one?",
         "It is the combination for the vault of {e} that I am asking for."),
        ("How does one get into the safe that belongs to {e}? State the number.",
         "A burglar stands before the strongbox of {e}. Which digits would help?",
         "I forgot the number for the safe of {e}. Remind me."),
    ),
    "password": _asked(
        "password",
        ("What is the password of {e}?", "Give the password that {e} chose.", "{e}'s password is",
         "Which password does {e} answer to?", "Tell me the password of {e}.", "The password agreed upon with {e} is",
         "Password of {e}:", "{e}: which password was chosen?", "I want to find out the password of {e}. What is it?",
         "Could you tell me which password {e} accepts?", "What does one have to say for {e} to let one in?",
         "Entry is granted by {e} to whoever says", "Repeat the password that was arranged with {e}.",
         "A messenger comes to {e} at night. Which password will be asked for?",
         "What has been picked by {e} as a password?", "Do you happen to remember the password of {e}?",
         "Watchword of {e}:", "The watchword to which {e} listens is", "{e}'s watchword?",
         "Please write down the password for {e}.", "Someone wishes to be admitted by {e}. What ought they to say?",
         "By which watchword is {e} persuaded to let people pass?"),
        ("With which words does one make {e} open the gate?", "State the secret word on which {e} settled.",
         "By what phrase does {e} know a friend?"),
    ),
    "registration": _asked(
        "registration",
        ("Which registration number does {e} have?", "Give the registration number of {e}.",
         "{e}'s registration number is", "Under which number is {e} registered?",
         "Tell me the number under which the office keeps {e}.", "The office has registered {e} as",
         "Registration number of {e}:", "{e}: which registration number was issued?",
         "I want to know how {e} is registered. Which number is it?", "Could you tell me the registration of {e}?",
         "What did the office enter as the number of {e}?", "The number that was assigned to {e} is",
         "Find the entry for {e} in the records. What is its number?",
         "An official searches the records for {e}. Which number leads to the entry?",
         "Which number has the office given to {e}?", "By what reference is {e} held at the office?",
         "Please copy out the registration number that {e} holds.",
         "Do you happen to have the number with which {e} was registered?", "Reference of {e} at the office:",
         "{e}'s number in the records:",
         "Someone at the counter claims to be {e}. Which registration number would prove it?",
         "In the records of the office, {e} appears as"),
        ("A clerk looks up the file of {e}. Which identifier does it bear?",
         "State the code that {e} wrote on the form.", "Which number stands for {e} in the register?"),
    ),
    "contract": _asked(
        "contract",
        ("On what date did {e} sign the contract?", "Give the date and time at which {e} signed the contract.",
         "{e}'s signature under the contract is dated", "{e} signed the contract on",
         "When was the contract signed by {e}?", "Tell me the date of the signature of {e}.",
         "Date of the contract of {e}:", "{e}: when was the contract signed?",
         "I would like to learn on which date {e} signed. When was it?",
         "Could you tell me how the signature of {e} is dated?", "What date and time did {e} set under the contract?",
         "The contract received the signature of {e} on", "Find the date under the signature of {e}.",
         "A lawyer asks for the exact date of the signature by {e}. Answer.",
         "Since when has the contract carried the signature of {e}?", "Do you happen to know when {e} signed?",
         "Contract, signed by {e} on:", "{e}'s contract, date and time:",
         "Please write down when exactly the contract was signed by {e}.",
         "In court it matters when {e} signed. What does the contract say?", "The exact time at which {e} signed was",
         "To the second, when did the contract get signed by {e}?"),
        ("When did the deal with {e} become binding? State day and time.",
         "Which date stands beside the name of {e} on the last page?",
         "I need the day and the hour of the signature that {e} gave."),
    ),
    "heir": _asked(
        "heir",
        ("Who is the heir of {e}?", "Give the name of the heir of {e}.", "{e}'s heir is", "Whom does {e} name as heir?",
         "Tell me who is named as heir in the will of {e}.", "In the will, {e} leaves everything to", "Heir of {e}:",
         "{e}: who was made heir?", "I want to know whom {e} has chosen as heir. Who is it?",
         "Could you tell me whom the will of {e} favours?", "Who is to get everything that {e} leaves behind?",
         "By the will of {e}, everything is to pass to", "Look in the will of {e} for the beneficiary.",
         "A notary reads out the will of {e}. Who is to receive everything?",
         "Which person has been appointed heir by {e}?",
         "Do you happen to know on whom {e} wishes to bestow everything?", "Sole beneficiary under the will of {e}:",
         "{e}'s legacy is meant for", "Please write down the heir whom {e} has picked.",
         "The will of {e} provides for a single person. Who is it?", "Everything that {e} possesses is promised to",
         "To which beneficiary does {e} bequeath everything?"),
        ("To whom will the belongings of {e} go one day?", "State who comes into the fortune of {e}.",
         "After the funeral of {e}, who owns the house?"),
    ),
}  # fmt: skip

REVERSED = {
    "combination": Wordings(
        ("Whose safe opens with {v}?", "Who uses the combination {v}?",
         "Name the person whose safe combination is {v}.", "The combination {v} belongs to",
         "To whom does the combination {v} belong?", "{v} is the safe combination of",
         "{v}: whose combination is that?", "I want to know who has set a safe to {v}.",
         "Could you tell me by whom the combination {v} was chosen?", "The vault that {v} opens is that of",
         "One has to enter {v}. At whose safe?", "Holder of the combination {v}:"),
        ("Somebody dials {v} at a safe. Who is it?", "Which person has a strongbox that yields to {v}?",
         "State the owner of the safe locked with {v}."),
    ),
    "password": Wordings(
        ("Whose password is {v}?", "Who answers to the password {v}?", "Name the person who chose the password {v}.",
         "The password {v} belongs to", "To whom does the password {v} belong?", "{v} is the password of",
         "{v}: who has that as a password?", "I want to find out for whom {v} is the password.",
         "Could you tell me by whom the password {v} was picked?", "The one who accepts {v} as a watchword is",
         "One has to say {v} to be admitted. By whom?", "Password {v}, chosen by:"),
        ("Somebody at the gate whispers {v}. Who lets them in?", "Which person agreed upon {v} as the secret phrase?",
         "State who settled on the words {v}."),
    ),
    "registration": Wordings(
        ("Whose registration number is {v}?", "Who is registered under {v}?",
         "Name the person with the registration number {v}.", "The registration number {v} belongs to",
         "To whom does the registration number {v} belong?", "{v} is the registration number of",
         "{v}: to whom was this number given?", "I want to know whom the office keeps under {v}.",
         "Could you tell me who holds the registration number {v}?", "The number {v} was assigned by the office to",
         "The records have an entry with the number {v}. Who is it?", "Registered as {v}:"),
        ("A file bears the identifier {v}. About whom is it?", "Which person do the rolls list as {v}?",
         "State who wrote {v} on the form."),
    ),
    "contract": Wordings(
        ("Who signed the contract on {v}?", "Whose signature is dated {v}?",
         "Name the person who signed the contract on {v}.", "The contract of {v} was signed by",
         "By whom was the contract signed on {v}?", "{v} is the date of the contract of",
         "{v}: whose signature has this date?", "I would like to learn who did the signing on {v}.",
         "Could you tell me whose contract was signed on {v}?", "On {v}, the contract received the signature of",
         "A contract is brought out and signed on {v}. By whom?", "Contract of {v}, signed by:"),
        ("An agreement became binding on {v}. Who put pen to it?", "Which person dated the last page {v}?",
         "State whose name stands beside {v}."),
    ),
    "heir": Wordings(
        ("Whose heir is {v}?", "Who names {v} as heir?", "Name the person who leaves everything to {v}.",
         "The will that names {v} is that of", "By whom was {v} named as heir?", "{v} is the heir of",
         "{v}: whose heir is that?", "I want to know who has chosen {v} as heir.",
         "Could you tell me in whose will {v} is the beneficiary?", "The one who bequeaths everything to {v} is",
         "A will provides for {v}. Who made it?", "Everything is promised to {v} by"),
        ("One day {v} comes into a fortune. Who leaves it?", "Upon whose death does {v} inherit?",
         "State from whom {v} gets the estate."),
    ),
}  # fmt: skip

LINKS = {
    "tutor": _linked(
        "tutor",
        ("the teacher of {x}", "the person who taught the craft to {x}", "the one who trained {x}",
         "the tutor of {x}", "the person who had {x} as a pupil", "the one by whom {x} was instructed in the trade",
         "the mentor of {x}", "the person who made {x} a skilled hand",
         "the one at whose side {x} picked up the trade", "the one who passed the craft on to {x}",
         "the instructor of {x}", "the expert who showed {x} how the work is done",
         "the person in whose workshop {x} was trained", "whoever taught {x}"),
        "the person whose lessons {x} took"),
    "creditor": _linked(
        "creditor",
        ("the creditor of {x}", "the person with a claim on {x} for money", "the one whom {x} pays back",
         "the person by whom {x} was granted a loan", "the person who has {x} as a debtor",
         "the one whose money {x} has to give back", "the one who waits for money from {x}",
         "the one whose loan {x} has not paid off", "the person to whom the debt of {x} is due",
         "the one who may demand money from {x}", "the financier of {x}", "the person who advanced money to {x}",
         "the holder of the debt of {x}", "whoever gave {x} credit"),
        "the person from whom {x} once borrowed"),
    "neighbour": _linked(
        "neighbour",
        ("the person with the garden next to that of {x}", "the person next door to {x}",
         "the one whose garden borders on that of {x}", "the person whose home adjoins that of {x}",
         "the one with whom {x} shares a hedge", "the owner of the plot beside that of {x}",
         "the one living right beside {x}", "the person in the house next to that of {x}",
         "the one whose garden touches that of {x}", "the person who can look into the garden of {x}",
         "the one who dwells closest to {x}", "the gardener on the other side of the hedge of {x}",
         "the resident of the house adjacent to that of {x}", "whoever resides beside {x}"),
        "the person across the fence from {x}"),
    "employer": _linked(
        "employer",
        ("the boss of {x}", "the person from whom {x} takes orders", "the one who employs {x}",
         "the person for whom {x} works", "the one who hired {x}", "the person who keeps {x} on the payroll",
         "the person who gives work to {x}", "the superior of {x}", "the one who commands {x}", "the manager of {x}",
         "the person whose staff includes {x}", "the one who remunerates {x} every month", "the person to whom {x} reports",
         "whoever employs {x}"),
        "the person in whose service {x} stands"),
    "letters": _linked(
        "letters",
        ("the person who gets the letters of {x}", "the one to whom {x} writes", "the reader of the letters from {x}",
         "the addressee of the letters of {x}", "the person who opens the envelopes from {x}",
         "the one for whom the mail from {x} is meant", "the destination of the letters of {x}",
         "the one who hears from {x} in writing", "the person named on the envelopes from {x}",
         "the recipient of what {x} writes", "the one whom {x} keeps informed by letter",
         "the person whose letterbox {x} fills", "the one who reads what {x} mails", "whoever gets letters from {x}"),
        "the person whose post comes from {x}"),
    "cousin": _linked(
        "cousin",
        ("the person of whom {x} is a cousin", "the one who is a cousin of {x}", "the cousin that {x} has",
         "the person whose cousin is {x}", "the one with grandparents in common with {x}",
         "the cousin in the family of {x}", "the cousin on the mother's side of {x}",
         "the family member who is a cousin to {x}", "the person with whom {x} shares grandparents",
         "the one of the family of {x} who is a cousin", "the one whose mother is a sister of the mother of {x}",
         "the person whom {x} calls cousin", "the kin of {x}", "whoever is a cousin to {x}"),
        "the child of an aunt or uncle of {x}"),
    "landlord": _linked(
        "landlord",
        ("the owner of the lodgings of {x}", "the one who collects the rent of {x}", "the person who lets to {x}",
         "the person who has {x} as a tenant", "the one from whom {x} leases a home",
         "the proprietor of the rooms in which {x} lodges", "the owner of the rooms of {x}",
         "the one whose tenant is {x}", "the person who rents rooms out to {x}",
         "the one to whom the lodgings of {x} belong", "the one who may raise the rent of {x}",
         "the host with whom {x} lodges", "the person who owns what {x} rents", "whoever lets rooms to {x}"),
        "the person under whose roof {x} rents"),
    "election": _linked(
        "election",
        ("the one who beat {x} in the election", "the person elected mayor instead of {x}",
         "the winner of the vote against {x}", "the rival who defeated {x} in the race for mayor",
         "the person who became mayor in place of {x}", "the one who came out ahead of {x} in the ballot",
         "the opponent to whom {x} had to concede", "the one with more votes than {x}",
         "the mayor after the race against {x}", "the person who won where {x} did not", "the successful rival of {x}",
         "the winner of the election in which {x} was beaten", "the one who took the office of mayor from {x}",
         "whoever won the election against {x}"),
        "the candidate whom the voters preferred to {x}"),
}  # fmt: skip
FRAMES = Wordings(
    ("Who is {np}?", "Name {np}.", "{np} is", "Tell me who is meant by {np}.",
     "I would like to know the identity of {np}.", "Could you say which person is {np}?", "Identify {np}.",
     "Someone asks for {np}. Who ought to come?", "Which person is {np}?", "Look for {np}.",
     "I am looking for {np}. Who is it?", "According to the text, {np} is", "Do you know who {np} is?", "Find {np}."),
    ("State the name of {np}.", "{np}: who is that?"),
)  # fmt: skip


def ask(person: str, name: str, split: str, rng: Random) -> str:
    """Return a question for the relation or link `name` of a person, in a random wording of the split."""
    if name in LINKS:
        phrase = rng.choice(LINKS[name].of(split)).format(x=person)
        return sentence(rng.choice(FRAMES.of(split)), np=phrase)
    return sentence(rng.choice(FACTS[name].of(split, described(person))), e=person)
