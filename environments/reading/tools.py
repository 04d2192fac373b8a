"""The two tools that read a text file, `search` and `read`: how a model calls them, and what they return and cost.

A model calls them by OpenAI's tool calls (form "tools"), or by tags in its reply (form "plain", for small models and for
servers that give tokens). Whatever is wrong with a call comes back as the call's result. A cost is counted in tokens of the
model's tokenizer, over the passages that a result shows, numbers included; `TextTools.limit` bounds the sum.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from environments.haystack.tokens import BREAK, Tokens
from environments.reading.text_file import Passage, TextFile, join
from longthread.files import JsonObject

HITS = 5  # passages that a search shows
MAX_CALLS = 8  # of one reply
MAX_QUERY = 500  # characters

_DESCRIPTIONS = {
    "search": "Search the text. Shows the best sentence of the passages that match the words of the query, best first.",
    "read": "Read the passages of the text with the numbers from `from` to `to`.",
}
_NUMBER = {"type": "integer", "minimum": 1}
_PROPERTIES: Mapping[str, JsonObject] = {
    "search": {"query": {"type": "string", "description": "words to look for"}},
    "read": {"from": _NUMBER, "to": _NUMBER},
}
TOOLS: list[JsonObject] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": _DESCRIPTIONS[name],
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        },
    }
    for name, properties in _PROPERTIES.items()
]
PLAIN_FORM = (
    "To look something up, reply with a search for words, like this: <search>words</search>, or with the numbers of "
    "passages to read, like this: <read>3-5</read>. You are then shown what is there, and reply again."
)
TOOLS_FORM = "Look things up with the tools search and read."


# ---- calls ----


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's name and its arguments, or the `fault` that keeps it from being carried out."""

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    fault: str = ""
    id: str = ""  # of OpenAI's tool calls

    def to_openai(self) -> JsonObject:
        """Return the call as a message of the assistant has it; one that is faulty has no arguments there."""
        function = {"name": self.name or "unknown", "arguments": json.dumps(self.arguments, ensure_ascii=False)}
        return {"id": self.id, "type": "function", "function": function}


# To the closing tag, or to the end of a reply that the model ended there.
_TAG = re.compile(r"<(search|read)>(.*?)(</\1>|\Z)", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"\s*\[?(\d{1,7})\]?\s*(?:[-\u2013\u2014,]|to)?\s*\[?(\d{1,7})?\]?\s*", re.IGNORECASE)


def plain_calls(text: str, finished: bool) -> list[ToolCall]:
    """Return the calls in a reply without its thinking. The last tag of a `finished` reply need not be closed."""
    return [
        _plain_call(match[1].lower(), match[2].strip())
        for match in _TAG.finditer(text)
        if match[3] or finished
    ]  # fmt: skip


def _plain_call(name: str, argument: str) -> ToolCall:
    if name == "search":
        return ToolCall(name, {"query": argument})
    if (numbers := _RANGE.fullmatch(argument)) is None:
        return ToolCall(name, fault=f"read takes passage numbers like 3-5 (got {argument[:60]!r})")
    return ToolCall(name, {"from": int(numbers[1]), "to": int(numbers[2] or numbers[1])})


def openai_calls(tool_calls: Sequence[JsonObject]) -> list[ToolCall]:
    """Return the tool calls of an OpenAI message; each has an id, its own or that of its place."""
    return [_openai_call(call, f"call_{i}") for i, call in enumerate(tool_calls)]


def _openai_call(call: JsonObject, place: str) -> ToolCall:
    function, call_id = call.get("function"), call.get("id")
    call_id = call_id if isinstance(call_id, str) and call_id else place
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        return ToolCall("", fault="a tool call must name a function", id=call_id)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            return ToolCall(name, fault=f"the arguments of {name} must be JSON", id=call_id)
    if not isinstance(arguments, dict):
        return ToolCall(name, fault=f"the arguments of {name} must be a JSON object", id=call_id)
    return ToolCall(name, arguments, id=call_id)


# ---- results ----


class ToolResult(NamedTuple):
    """What a call returned: the text for the model, the tokens of the passages in it, and whether the call was faulty."""

    text: str
    tokens: int
    faulty: bool = False


@dataclass
class TextTools:
    """The tools over one text file, with what has been read so far; at most `limit` tokens in all."""

    file: TextFile
    tokens: Tokens
    limit: int
    searches: int = 0
    reads: int = 0
    tokens_read: int = 0
    errors: int = 0

    def run(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Carry out the calls of one reply, in order; those beyond `MAX_CALLS` are faulty."""
        results = [self._call(call) for call in calls[:MAX_CALLS]]
        results += [self._fault(f"at most {MAX_CALLS} calls a reply") for _ in calls[MAX_CALLS:]]
        return results

    def _call(self, call: ToolCall) -> ToolResult:
        if call.fault:
            return self._fault(call.fault)
        if call.name not in _PROPERTIES:
            return self._fault(f"there is no tool {call.name[:40]!r}: the tools are {', '.join(_PROPERTIES)}")
        if self.tokens_read >= self.limit:
            return self._fault(f"all {self.limit} tokens that may be read are read: answer now")
        return self._search(call.arguments) if call.name == "search" else self._read(call.arguments)

    def _search(self, arguments: Mapping[str, object]) -> ToolResult:
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            return self._fault("search takes a query: words to look for")
        if len(query) > MAX_QUERY:
            return self._fault(f"a query has at most {MAX_QUERY} characters (got {len(query)})")
        self.searches += 1
        hits = self.file.search(query, HITS)
        if not hits:
            return ToolResult("No passage has a word of this query.", 0)
        return self._shown(hits)

    def _read(self, arguments: Mapping[str, object]) -> ToolResult:
        first, last, count = _number(arguments.get("from")), _number(arguments.get("to")), len(self.file.passages)
        if first is None or last is None:
            return self._fault("read takes two passage numbers, from and to")
        if not 1 <= first <= last or first > count:
            return self._fault(f"read takes numbers from 1 to {count}, in order (got {first} and {last})")
        self.reads += 1
        return self._shown(self.file.read(first, last))

    def _shown(self, passages: Sequence[Passage]) -> ToolResult:
        """Return the passages as a result of at most the tokens that are left, the last of them cut where they end."""
        shown, left, cut = list[str](), self.limit - self.tokens_read, False
        for passage in passages:
            text = join([passage])
            cost = len(self.tokens.encode(text))
            if cost > left:
                cut = True
                text = self._beginning(text, left)
                cost = len(self.tokens.encode(text)) if text else 0
            if text:
                shown.append(text)
            left -= cost
            if cut or left <= 0:
                break
        read = self.limit - self.tokens_read - left
        self.tokens_read += read
        note = ["(The limit of reading is reached: answer now.)"] if cut or left <= 0 else []
        return ToolResult(BREAK.join([*shown, *note]), read)

    def _beginning(self, text: str, most: int) -> str:
        """Return as much of a text as has at most `most` tokens, from its beginning."""
        ends = [end for _, end in self.tokens.offsets(text)[1]]
        for end in reversed(ends[:most]):
            if len(self.tokens.encode(text[:end])) <= most:  # cut, a text may be tokenised otherwise
                return text[:end]
        return ""

    def _fault(self, fault: str) -> ToolResult:
        self.errors += 1
        return ToolResult(f"Error: {fault}.", 0, True)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
