"""Terms in any script: what one writes into a question is found in a text without blanks, too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.retrieval.ranking import TermIndex
from environments.retrieval.terms import first_place, terms, word_offsets


def test_words_are_in_lower_case_without_punctuation() -> None:
    assert terms("Anna's 3rd KEY_2, cut-off.") == ["anna", "s", "3rd", "key_2", "cut", "off"]


@pytest.mark.parametrize("text", ["किताब", "café", "מִלָּה", "كِتَاب", "বই"])
def test_vowel_signs_and_accents_are_part_of_their_word(text: str) -> None:
    assert len(terms(f"{text} x")) == 2


def test_one_letter_in_two_forms_of_unicode_is_one_term() -> None:
    assert terms("cafe\u0301 \uff21\uff22") == terms("caf\u00e9 AB")


def test_runs_without_blanks_are_overlapping_n_grams() -> None:
    assert terms("东京塔 is") == ["东", "京", "塔", "东京", "京塔", "is"]
    assert terms("กขคง") == ["กข", "ขค", "คง", "กขค", "ขคง"]
    assert terms("ก") == ["ก"]


CHINESE = ["小明昨天在北京买了一本书。", "天气很好，我们去公园散步。", "她的密码是七三九一。", "火车从上海出发。"]
THAI = ["เมื่อวานนี้สมชายซื้อบ้านในเชียงใหม่", "อากาศดีมากวันนี้", "รหัสผ่านของเธอคือเจ็ดสามเก้า", "รถไฟออกจากกรุงเทพ"]
KOREAN = [
    "민수는 어제 서울에서 책을 샀다.",
    "날씨가 매우 좋다.",
    "그녀의 비밀번호는 칠삼구이다.",
    "기차는 부산을 떠났다.",
]
JAPANESE = [
    "昨日、太郎は京都で本を買った。",
    "天気がとても良い。",
    "彼女の暗証番号は七三九です。",
    "電車は東京を出た。",
]


@pytest.mark.parametrize(
    ("texts", "question", "found"),
    [
        pytest.param(CHINESE, "密码是什么？", 2, id="chinese"),
        pytest.param(CHINESE, "谁在北京？", 0, id="chinese-place"),
        pytest.param(CHINESE, "书", 0, id="chinese-single-letter"),
        pytest.param(THAI, "รหัสผ่านคืออะไร", 2, id="thai"),
        pytest.param(THAI, "ใครอยู่เชียงใหม่", 0, id="thai-place"),
        pytest.param(KOREAN, "서울은 어디인가?", 0, id="korean-other-ending"),
        pytest.param(JAPANESE, "暗証番号は?", 2, id="japanese"),
    ],
)
def test_a_word_is_found_where_no_blanks_stand(texts: list[str], question: str, found: int) -> None:
    assert TermIndex([terms(text) for text in texts]).best(question, 1) == [found]


def test_the_first_wanted_term_is_located_as_a_whole_word() -> None:
    assert first_place("Other things there, the end", {"the", "end"}) == 20
    assert first_place("他在北京。", set(terms("北京"))) == 2
    assert first_place("nothing here", {"absent"}) == 0


@given(st.text())
def test_words_stand_in_order_and_hold_every_letter(text: str) -> None:
    spans = word_offsets(text)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert "".join(text[start:end] for start, end in spans) == "".join(text.split())
