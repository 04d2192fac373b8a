"""Links over segments are followed by search and reply, with a stand-in that answers from the segments that are open."""

import re
from collections.abc import Sequence

import pytest

from lift.inference.hops import answered, description, names_in
from lift.inference.routing import Place

LINKS = {
    0: "Maro Fenth pays the wages of Lisa Kord.",
    1: "It rained all night.",
    2: "Lisa Kord lodges with Timo Varga.",
    3: "The combination that Timo Varga uses for the safe is 4829104756.",
    4: "Anna Selim keeps bees.",
}
QUESTION = "Which combination has the landlord of the person whose wages Maro Fenth pays?"


class Stub:
    """Finds segments by names, and replies with the value if it is open, else with the open segments' sentences."""

    def __init__(self) -> None:
        self.searched: list[str] = []

    def search(self, question: str) -> list[Place]:
        self.searched.append(question)
        return [Place("book", i) for i, text in LINKS.items() if set(names_in(question)) & set(names_in(text))]

    def answer(self, question: str, places: Sequence[Place]) -> str:
        text = " ".join(LINKS[place.segment] for place in places)
        value = re.search(r"\d+", text)
        return value[0] if value else "none"

    def names(self, question: str, places: Sequence[Place]) -> str:
        asked = set(names_in(question))
        sentences = [LINKS[p.segment] for p in places if asked & set(names_in(LINKS[p.segment]))]
        return ", ".join(name for sentence in sentences for name in names_in(sentence))


@pytest.mark.parametrize(
    ("hops", "reply", "opened"), [(0, "none", [0]), (1, "none", [0, 2]), (2, "4829104756", [0, 2, 3])]
)
def test_each_hop_finds_the_next_link(hops: int, reply: str, opened: list[int]) -> None:
    result = answered(Stub(), QUESTION, hops)
    assert result.reply == reply and [place.segment for place in result.places] == opened
    assert len(result.followed) == hops


def test_it_ends_where_nothing_new_is_named_or_found() -> None:
    reader = Stub()
    result = answered(reader, QUESTION, 99)
    assert len(result.followed) == 2 and len(reader.searched) == 3
    nobody = answered(Stub(), "What is the capital of France?", 5)
    assert nobody.places == () and nobody.followed == ()


def test_a_known_name_is_not_searched_for_again() -> None:
    reader = Stub()
    answered(reader, QUESTION, 5)
    assert [text for text in reader.searched if "Maro Fenth" in text] == [QUESTION]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Maro Fenth pays Lisa Kord, and Lisa Kord pays nobody.", ["Maro Fenth", "Lisa Kord"]),
        ("It rained. Nobody came to the mill of Anna.", ["Anna"]),
        ("Emma", ["Emma"]),
        ("none", []),
    ],
    ids=["two", "single", "alone", "none"],
)
def test_names(text: str, names: list[str]) -> None:
    assert names_in(text) == names


@pytest.mark.parametrize(
    ("question", "described"),
    [
        ("Which digits does the lender of Ann Lee dial?", "the lender of Ann Lee"),
        ("Which digits dials the landlord of the employer of Ann Lee?", "the employer of Ann Lee"),
        ("What is the safe, Ann Lee?", ""),
        ("Which digits does Ann Lee dial to unlock the strongbox?", ""),
        ("Does bathe Ann Lee?", ""),
        ("Which day is it?", ""),
    ],
    ids=["one", "innermost", "comma", "none", "inside a word", "nobody"],
)
def test_descriptions(question: str, described: str) -> None:
    assert description(question) == described


class Plain(Stub):
    """Answers who somebody is, and facts of those that are named, but follows no link by itself."""

    def answer(self, question: str, places: Sequence[Place]) -> str:
        text = " ".join(LINKS[place.segment] for place in places)
        if question == "Which wages does Lisa Kord get?":
            return "4829104756" if "pays the wages" in text else "none"
        return "none"

    def names(self, question: str, places: Sequence[Place]) -> str:
        text = " ".join(LINKS[place.segment] for place in places)
        if question == "Who is the lodger of Timo Varga?":
            return "Lisa Kord" if "lodges with" in text else "none"
        return super().names(question, places) if question.startswith("Who is named") else "none"


class Stepwise(Plain):
    """The same, in the form of a reply step by step."""

    def answer(self, question: str, places: Sequence[Place]) -> str:
        return f"<answer>{super().answer(question, places)}</answer>"


def test_a_reply_step_by_step_that_denies_is_one() -> None:
    result = answered(Stepwise(), "Which wages does the lodger of Timo Varga get?", 2)
    assert result.reply == "<answer>4829104756</answer>"


def test_a_description_gives_way_to_whoever_is_meant() -> None:
    result = answered(Plain(), "Which wages does the lodger of Timo Varga get?", 2)
    assert result.reply == "4829104756" and result.followed == (("Lisa Kord",),)
    assert answered(Plain(), "Which wages does the lodger of Timo Varga get?", 0).reply == "none"
    assert answered(Plain(), "Which wages does the lodger of Anna Selim get?", 2).reply == "none"
