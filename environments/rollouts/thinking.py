"""What a model thinks before it answers, in the markers of today's models, and what is left without it.

Thinking is removed where it ended. Where it did not end, nothing of it is left, also where the chat template opened it.
"""

import re

# Names of tags: <think>…</think>, in any case and with any namespace (<seed:think>).
_TAGS = "think thinking thought thoughts reasoning reflection scratchpad".split()
# Other pairs of an opening and a closing marker, as regular expressions, by whose they are.
_PAIRS = {
    "magistral": (r"\[THINK\]", r"\[/THINK\]"),
    "kimi": ("◁think▷", "◁/think▷"),
    "command": (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    "openthinker": (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    "apertus": (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    "gemma": (r"<\|channel>\s{0,9}thought\b", r"<channel\|>"),
    "medgemma": (r"<unused94>\s{0,9}thought\b", "<unused95>"),
    # gpt-oss: messages on channels, of which "final" alone is the answer. Servers may drop the special tokens, which leaves
    # "analysisWe look for … assistantfinalIt is 7.".
    "harmony": (
        r"(?-i:<\|channel\|>|assistant(?:analysis|commentary)|\A\s{0,99}(?:analysis|commentary)(?=[^\W_]|[<\"'“(]))",
        r"(?-i:<\|channel\|>\s{0,9}final\b[^<]{0,99}(?:<\|constrain\|>[^<]{0,99})?<\|message\|>|assistantfinal)",
    ),
}
_MESSAGE_END = re.compile(r"<\|(?:end|return|start|call)\|>")
# Possessive: a reply of a million blanks must not take minutes. The first look ahead passes over most characters at once.
_TAG = rf"<\s*+(?P<slash>/?)\s*+(?P<name>(?:[a-z]{{1,16}}:)?(?:{'|'.join(_TAGS)}))\s*+>"
_BEGINNING = r"(?:(?=<[\s/a-z|]|\[/?t|◁|assistant)|\A)"
_MARKER = re.compile(
    rf"{_BEGINNING}(?:{'|'.join([_TAG, *(rf'(?P<close_{i}>{b})|(?P<open_{i}>{a})' for i, (a, b) in _PAIRS.items())])})",
    re.IGNORECASE,
)
# With which a prompt may end: any opening marker; of harmony, a whole message header, unless it is the final one's.
_PROMPT_HEADER = re.compile(r"<\|channel\|>\s{0,9}(?:analysis|commentary)\b[^<]{0,99}(?:<\|message\|>)?\Z")
TAIL = 300  # characters of a prompt's end that may hold such a marker


def without_thinking(completion: str, opened: str = "") -> str:
    """Return what a completion says after its thinking; "" where thinking did not end.

    `opened`: the marker with which the prompt opened thinking (`opened_thinking`), so that the completion begins inside.
    A closing marker drops everything before it, whether or not an opening one is there; a block ends with the last closing
    marker of its own kind. What stands before thinking that does not end is kept.
    """
    text = f"{opened}{completion or ''}"
    markers = [(match.start(), match.end(), *_kind(match)) for match in _MARKER.finditer(text)]
    last_close = {name: end for _, end, name, closes in markers if closes}
    start, within = 0, ""
    for at, _, name, closes in markers:
        if at < start:  # inside a block that ended
            continue
        if not closes and last_close.get(name, 0) <= at:
            text = text[:at]
            break
        start, within = last_close[name], name
    said = text[start:]
    return _MESSAGE_END.split(said, maxsplit=1)[0] if within == "harmony" else said


def opened_thinking(prompt: str) -> str:
    """Return the marker that opens thinking at the very end of a rendered prompt, white space apart; "" if none does."""
    tail = prompt[-TAIL:].rstrip()
    if match := _PROMPT_HEADER.search(tail):
        return match.group()
    ending = (match for match in _MARKER.finditer(tail) if match.end() == len(tail))
    return next((match.group() for match in ending if _kind(match)[1:] == (False,)), "")


def opened_in_reply(reply: str, opened: str, finished: bool) -> str:
    """Return the marker with which the prompt opened thinking, if a chat server's reply goes on inside it; else "".

    A reply without the thinking does not, and many chat servers take it out silently: what is finished, and never closes
    the thinking, is the reply behind it.
    """
    return "" if finished and not without_thinking(reply, opened) else opened


def _kind(match: re.Match[str]) -> tuple[str, bool]:
    """Return which kind of marker was found, and whether it closes."""
    group = match.lastgroup or ""
    if group == "name":
        return match["name"].lower(), bool(match["slash"])
    side, _, kind = group.partition("_")
    return kind, side == "close"
