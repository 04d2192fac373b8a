"""The prompt that asks about a document by its name: `lift ask` sends it, and readers are trained on it.

The other form of a question about a text is that of the environments, in `prompt.py`.
"""


def request(name: str, question: str) -> str:
    """Return the user's message that asks a question about the document `name`, or about none by name if it is ""."""
    about = f'About "{name}": ' if name else ""
    return f"{about}{question}\nReply with the answer alone."


def behind_text(text: str, request: str) -> str:
    """Return the user's message with a text before the request."""
    return f"Text:\n{text}\n\n{request}"
