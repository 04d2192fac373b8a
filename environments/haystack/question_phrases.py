"""Phrases that ask for facts, and the frames that make questions of them: most of the wordings for training."""

from dataclasses import dataclass

FRAMES_OF_NOUNS = (
    "What is {np}?", "Give {np}.", "Tell me {np}.", "{np} is", "I want to learn {np}.", "Could you tell me {np}?",
    "Are you able to tell me {np}?", "Please write down {np}.", "{np}:", "Search for {np}.", "Search the text for {np}.",
    "I require {np}.", "Name {np}.", "What does the text give as {np}?", "According to the text, {np} is",
    "Somebody asks for {np}. What is the reply?", "Read out {np}.", "May I have {np}?", "Of all that is said, what is {np}?",
    "Find {np}.",
)  # fmt: skip
FRAMES_OF_CLAUSES = (
    "Tell me {c}.", "I wonder {c}.", "Can you say {c}?", "Find out {c}.", "Say {c}.", "The text says {c}. Repeat it.",
    "Can you see {c}?", "Somebody asks {c}. Answer.", "Please explain {c}.",
)  # fmt: skip
NOUN_FRAMES, CLAUSE_FRAMES = 5, 3  # in which each phrase stands


@dataclass(frozen=True)
class Phrases:
    """What is asked for: as nouns ("the heir of {e}"), as clauses ("who succeeds {e}"), and in scenes that ask by themselves.

    A small model that is asked in a few wordings alone learns these by heart, and says "none" to others.
    """

    nouns: tuple[str, ...]
    clauses: tuple[str, ...]
    scenes: tuple[str, ...]

    def wordings(self) -> tuple[str, ...]:
        """Return the scenes, and each noun and clause in a few frames, not the same ones for each."""
        nouns = _framed(self.nouns, "{np}", FRAMES_OF_NOUNS, NOUN_FRAMES)
        return (*self.scenes, *nouns, *_framed(self.clauses, "{c}", FRAMES_OF_CLAUSES, CLAUSE_FRAMES))


def _framed(phrases: tuple[str, ...], slot: str, frames: tuple[str, ...], each: int) -> list[str]:
    step = len(frames) // each
    return [frames[(i + n * step) % len(frames)].replace(slot, x) for i, x in enumerate(phrases) for n in range(each)]


PHRASES = {
    "combination": Phrases(
        ("the number that opens the safe of {e}", "the combination that {e} needs for the safe",
         "the sequence to enter at the safe of {e}", "the setting at which the vault of {e} springs open",
         "the row of figures behind which {e} keeps the valuables", "{e}'s number for the safe",
         "the number on which the lock of the safe of {e} turns",
         "the number that {e} keys in to get at the money in the safe",
         "the series of numerals that gives {e} access to the vault",
         "the row of figures that the steel door of {e} obeys",
         "the combination without which nobody gets at the valuables of {e}",
         "the right number for the lock of {e}"),
        ("how {e} gets the safe open", "to which number {e} has set the lock",
         "what has to be turned in on the safe of {e}", "with which figures {e} closes the vault",
         "which combination {e} relies on", "what number keeps thieves from the money of {e}",
         "what {e} enters to take papers out of the safe", "which figures the lock of {e} wants"),
        ("The heavy door moves only when {e} has entered a number. Which one?",
         "Thieves pay a lot to learn how {e} locks the money away. What is the number?",
         "{e} has gone abroad and the safe has to be opened. What should be entered?",
         "The jewels of {e} lie behind steel. Which figures set them free?",
         "A grandchild of {e} tries one number after another at the safe. Which one works?",
         "To put money away for the night, {e} enters", "The maker of the safe sent {e} a number. It reads",
         "Without one number the safe of {e} stays shut. Which is it?",
         "The insurance asks {e} how the safe is set. What is to be answered?",
         "A few figures, and the vault of {e} is open. They are"),
    ),
    "password": Phrases(
        ("the password that {e} wants to hear", "the watchword that {e} gave out",
         "the password to be said at the door of {e}", "the expression by which {e} recognises allies",
         "the password with which {e} logs in", "{e}'s choice of password", "the group of four terms to which {e} reacts",
         "the password that {e} shares with a few others", "the countersign that {e} demands",
         "the signal arranged with {e}", "the password without which {e} sends everyone away",
         "the call that {e} waits for"),
        ("what {e} asks people to say", "which password {e} decided on", "how one proves to {e} to be an ally",
         "what to call out so that {e} lets one pass", "by what {e} tells allies from strangers",
         "which watchword is valid with {e}", "what has to be typed in the name of {e}",
         "which password was given out by {e}"),
        ("{e} turns away anyone who says something else. What has to be said?",
         "A spy would like to get past {e}. Which watchword is needed?",
         "In the dark {e} calls: who goes there? The right reply is",
         "The guard lets through whoever can say the watchword of {e}. It is",
         "An account in the name of {e} is protected by", "Say it right, and {e} lets you in. Say what?",
         "Before the meeting {e} passed on a password. Which one?",
         "A stranger knocks at the house of {e} and has to name something. What?",
         "New members are told the password by {e}. What are they told?", "Nobody comes past {e} without saying"),
    ),
    "registration": Phrases(
        ("the registration number that {e} received", "the number behind the name of {e} in the records",
         "the official number of {e}", "the number of {e} with the authorities",
         "the long number on the card of {e}", "{e}'s official number",
         "the reference that the authorities use for {e}", "the number on the certificate of {e}",
         "the key under which the archive keeps {e}", "the serial number of {e} at the office",
         "the registration issued to {e}", "the number to quote when one writes to the office about {e}"),
        ("under which number the office keeps {e}", "how {e} is recorded", "which number the authorities gave to {e}",
         "by what number {e} can be found in the records", "what is printed on the card of {e}",
         "how the archive refers to {e}", "what {e} has to quote at the counter",
         "which registration is that of {e}"),
        ("A letter to the office about {e} has to quote a number. Which one?",
         "The computer of the authorities shows {e} with the number",
         "Two people are called the same, and only a number tells {e} from the other. It is",
         "At the border {e} is asked for the registration. What is it?",
         "On the card in the drawer of the office, next to {e}, it says",
         "The police want to find {e} in the records. What should they search for?",
         "Everyone who registers gets a number. What did {e} get?",
         "To change an address, {e} has to give a number to the office. Which one?",
         "The certificate of {e} carries in small print",
         "The archive has thousands of cards. Which number is on that of {e}?"),
    ),
    "contract": Phrases(
        ("the date on which {e} signed", "the date below the signature of {e}",
         "the exact time at which {e} signed the contract", "the date from which the contract of {e} counts",
         "the date that {e} wrote under the contract", "{e}'s date of signing",
         "the point in time when {e} accepted the contract", "the date of the paper that {e} signed",
         "the date at which the contract with {e} was closed", "the timestamp of the signature of {e}",
         "the date and second at which {e} committed to the contract",
         "the date that goes with the signature of {e}"),
        ("when {e} signed the paper", "since when {e} has had a contract", "on what date {e} put down the signature",
         "how {e} dated the contract", "at what time exactly {e} accepted the contract",
         "which date {e} put below the text of the contract", "when the ink of the signature of {e} was fresh",
         "when the lawyers saw {e} sign"),
        ("The ink had hardly dried when the lawyers noted the date of the signature of {e}. It was",
         "A judge doubts when {e} signed. What does the contract say?",
         "{e} had waited long, and finally signed. When?",
         "The contract is old, but the signature of {e} has a date. Which one?",
         "The period of notice is counted from the signature of {e}. From when is that?",
         "Copy the date that {e} left under the contract.",
         "The witnesses remember exactly when {e} signed. When was it?",
         "From what date on could the partners of {e} rely on the contract?",
         "Under the contract, in the handwriting of {e}, it says",
         "A historian dates the contract by the signature of {e}. To when?"),
    ),
    "heir": Phrases(
        ("the heir whom {e} has chosen", "the beneficiary in the will of {e}", "the person to whom {e} leaves all",
         "{e}'s sole heir", "the one for whom {e} has provided in the will", "the successor to the wealth of {e}",
         "the name in the will of {e}", "the lucky one whom {e} wants to make rich",
         "the person who is to have everything of {e}", "the recipient of all that {e} has saved",
         "the legatee of {e}", "the person favoured in the will of {e}"),
        ("who is to get what {e} leaves", "whom {e} remembered in the will",
         "who is going to be rich when {e} is gone", "to whom {e} has left it all",
         "whose name {e} wrote in the will", "for whom {e} has been saving", "who succeeds {e} in everything",
         "which heir {e} has named"),
        ("The family waits for the will of {e} to be opened. Whose name is in it?",
         "{e} has no children and wants somebody to have it all. Whom?",
         "The lawyer has a sealed will from {e}. Whom does it favour?",
         "One name is in the will of {e}. Which one?",
         "The family of {e} envies one person for what the will says. Whom?",
         "When {e} is no more, everything passes to", "A will can be changed, but that of {e} still favours",
         "The bank has to hand over what {e} leaves. To whom?",
         "Some time one person will thank {e} for everything. Who?",
         "In the will, {e} thinks of one person alone:"),
    ),
}  # fmt: skip
