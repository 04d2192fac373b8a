"""The prompt that asks about a document by its name: `lift ask` sends it, and readers are trained on it.

The other form of a question about a text is that of the environments, in `prompt.py`.
"""

REPLY = "\nReply with the answer alone."
TEXT, ABOUT, SAID = "Text:\n", 'About "', '": '


def request(name: str, question: str) -> str:
    """Return the user's message that asks a question about the document `name`, or about none by name if it is ""."""
    about = f"{ABOUT}{name}{SAID}" if name else ""
    return f"{about}{question}{REPLY}"


def behind_text(text: str, request: str) -> str:
    """Return the user's message with a text before the request."""
    return f"{TEXT}{text}\n\n{request}"


def question_in(message: str) -> str:
    """Return the question alone of a message that `request` or `behind_text` wrote; any other message as it is.

    A question with a blank line in it is taken from its last paragraph.
    """
    if not message.endswith(REPLY):
        return message
    question = message.removesuffix(REPLY)
    if message.startswith(TEXT):
        question = question.rpartition("\n\n")[2]
    return question.partition(SAID)[2] if question.startswith(ABOUT) else question
