"""Sentences and words of other scripts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.filler.passages import to_passages
from environments.haystack.filler.scripts import count_words, language_of
from environments.haystack.filler.sentences import SCRIPTS, STRETCH, split_by_script, split_sentences
from tests.environments.haystack.filler.corpora_of_any_shape import PARTS, UNSPACED, sentences_of
from tests.environments.haystack.filler.strategies import plain_sentence

WRITTEN = {
    "zh": "河边的老房子很安静。|住在那里的人很少谈起它！|“你好吗？”|她说：「我不知道。」|然后走了。|第3.5节在这里。",
    "ja": "吾輩は猫である。|名前はまだ無い。|『本当？！』|うん、そうだ。|終わり｡",
    "hi": "यह एक पुराना घर है।| लोग कम बोलते हैं।| क्या आप आएंगे?| हाँ, ज़रूर।",
    "ar": "هذا بيت قديم.| هل تعرفه؟| نعم، أعرفه.| كان الناس قليلي الكلام.",
    "bn": "এটি একটি পুরানো বাড়ি।| লোকেরা কম কথা বলে।",
    "my": "ဒါက အိမ်ဟောင်းပါ။| လူတွေ စကားနည်းတယ်။",
    "am": "ይህ አሮጌ ቤት ነው።| ሰዎች ጥቂት ይናገራሉ።",
    "km": "នេះជាផ្ទះចាស់។| មនុស្សនិយាយតិច។",
    "hy": "Սա հին տուն է։| Մարդիկ քիչ են խոսում։",
    "ka": "ეს ძველი სახლია.| ხალხი ცოტას ლაპარაკობს.",
    "el": "Τι είναι αυτό;| Είναι ένα παλιό σπίτι.| Ο κόσμος μιλάει λίγο.",
    "": "Mr. Brown came at 3.14 p.m. yesterday.| The word 房子 means house.",
}


@pytest.mark.parametrize("language", WRITTEN)
def test_sentences_end_where_the_script_says(language: str) -> None:
    text = WRITTEN[language]
    assert language_of(text) == language
    assert split_by_script(text.replace("|", "")) == [sentence.strip() for sentence in text.split("|")]


def test_thai_is_split_at_blanks() -> None:
    """It has no mark that ends a sentence."""
    sentences = split_by_script(" ".join(sentences_of("thai", 30)))
    assert len(sentences) > 10 and " ".join(sentences) == " ".join(sentences_of("thai", 30))
    assert all(5 <= count_words(sentence) <= 40 for sentence in sentences[:-1])


@pytest.mark.parametrize("language", PARTS)
def test_every_sentence_of_a_text_comes_out(language: str) -> None:
    written = sentences_of(language, 200)
    text = ("" if language in UNSPACED else " ").join(written)
    split = split_by_script(text)
    assert "".join("".join(split).split()) == "".join(text.split())
    if language not in ("thai", "japanese", "chinese"):
        assert split == written
    assert len(split) > 60
    assert max(map(len, split)) < STRETCH


@given(st.lists(plain_sentence, min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_english_is_split_as_ever(written: list[str]) -> None:
    text = " ".join(written)
    assert split_by_script(text) == split_sentences(text)
    assert count_words(text) == len(text.split())


@given(st.text(st.sampled_from("a bA.。！？」』）“「 \u0964\u0e01\u6cb3\u306f"), max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_character_is_lost(text: str) -> None:
    paragraph = " ".join(text.split())
    split = split_by_script(paragraph)
    assert "".join("".join(split).split()) == "".join(paragraph.split())
    position = 0
    for sentence in split:  # spans of documents rest on it
        position = paragraph.index(sentence, position) + len(sentence)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("one two - three", 4),
        ("河边的老房子很安静。", 5),
        ("吾輩は猫である。", 4),
        ("ชายชราเขียนจดหมาย", 4),
        ("The word 房子 means house.", 5),
        ("यह एक पुराना घर है।", 5),
        ("이것은 오래된 집이다.", 3),
        ("GPT-4是一个模型。", 4),
    ],
)
def test_words(text: str, words: int) -> None:
    assert count_words(text) == words


def test_time_grows_with_the_text() -> None:
    """sentencex takes the square of a paragraph's length in Chinese and Japanese: it is given stretches."""
    text = WRITTEN["zh"].replace("|", "") * 4000  # 200,000 characters, half a minute at a time
    assert len(split_by_script(text)) > 15_000


def test_passages_of_other_scripts() -> None:
    text = "河边的老房子很安静。住在那里的人很少谈起它！没有完\n\n短。"
    assert list(to_passages(text, rules=SCRIPTS)) == [[["河边的老房子很安静。", "住在那里的人很少谈起它！"]]]
    assert list(to_passages(text)) == []
