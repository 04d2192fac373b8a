"""Documents in any script: their sentences, and how many words they must have."""

import re
from pathlib import Path

import pytest

from lift.document.document import Document, read
from longthread.errors import DataError
from tests.environments.haystack.filler.corpora_of_any_shape import PARTS, sentences_of, written_in

SHORT = {
    "chinese": "河边的老房子很安静。",
    "japanese": "吾輩は猫である。",
    "hindi": "यह एक पुराना घर है।",
    "thai": "ชายชรา",
}


@pytest.mark.parametrize("language", PARTS)
def test_sentences_are_spans_with_white_space_alone_between_them(language: str) -> None:
    text = f"\n {written_in(language, 120)}\n\nA last one. It is English,\n  on two lines!\n"
    document = Document("d", text)
    assert len(document.sentences) > 40
    position = 0
    for start, end in document.sentences:
        assert not text[position:start].strip() and start < end
        assert text[start:end] == text[start:end].strip()
        position = end
    assert not text[position:].strip()
    assert [document.quote(span) for span in document.sentences[-2:]] == ["A last one.", "It is English, on two lines!"]
    if language not in ("thai", "japanese", "chinese"):  # some of whose sentences end within quotes or without marks
        quoted = [document.quote(span) for span in document.sentences[:-2]]
        assert quoted == sentences_of(language, 120)


@pytest.mark.parametrize("language", SHORT)
def test_words_are_counted_where_no_blanks_stand_between_them(language: str, tmp_path: Path) -> None:
    """jordan-gibbs/hyperresearch 71, 7xuanlu/wenlan PR 751: 10,000 characters of Chinese were one word."""
    path = tmp_path / "d.txt"
    path.write_text(SHORT[language], encoding="utf-8")
    with pytest.raises(DataError, match=r"d\.txt has [2-5] words, at least 20 are needed"):
        read(path)
    path.write_text(SHORT[language] * 40, encoding="utf-8")
    assert re.sub(r"\s", "", read(path).text) == re.sub(r"\s", "", SHORT[language] * 40)
