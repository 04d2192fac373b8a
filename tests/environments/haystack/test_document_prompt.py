"""The question that a message asks is read back from it, whatever stands around it."""

import pytest

from environments.haystack.document_prompt import behind_text, question_in, request

QUESTION = 'Who said "a: b" to Anna? If the text does not say, reply: none.'


@pytest.mark.parametrize("name", ["", "book", 'it\'s "so"'])
@pytest.mark.parametrize("text", ["", 'One passage.\n\n* * *\n\nAbout "x": another.'])
def test_the_question_is_read_back(name: str, text: str) -> None:
    message = request(name, QUESTION)
    assert question_in(behind_text(text, message) if text else message) == QUESTION


@pytest.mark.parametrize("message", ["Who?", "Text:\nall of it\n\nWho?", 'About "book": who?', ""])
def test_another_message_is_its_own_question(message: str) -> None:
    assert question_in(message) == message
