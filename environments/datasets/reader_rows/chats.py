"""Ordinary conversations in a model's own words: general questions, which a served model answers greedily, kept in a file.

    ask(ServerAddress(url, key, model), count=400, seed=0, path=Path("chats.jsonl"))
    conversations = read_chats(Path("chats.jsonl"))        # the same form as any SFT file of messages

A reader that is trained on answers about documents alone answers every question with something of a document, or "none".
"""

import asyncio
import json
from collections.abc import Iterator
from itertools import count as numbers
from pathlib import Path
from random import Random
from typing import Any

from environments.datasets.other_prompts import general_prompts
from environments.datasets.reader_rows.encoding import Turn
from environments.inference.contracts import ServerAddress
from environments.inference.finish_reason import Ending, ending
from environments.inference.greedy import greedy_replies
from environments.inference.preflight import check_server
from environments.rollouts.thinking import without_thinking
from longthread.errors import ConfigError, DataError
from longthread.files import JsonLines, end_with_a_line

REPLY_TOKENS = 256  # a reply that takes more is cut off, and left out
WANTED = 'a row is {"messages": [user, assistant, …]}, the roles in turn, with text in each'
LEAST_KEPT = 0.25  # of the replies asked for: with fewer whole ones the model is not worth copying


def prompts(count: int, seed: int) -> list[str]:
    """Return `count` different general questions as messages: as they are, and as `lift ask` would ask them, in turn."""
    drawn: dict[str, None] = {}
    questions = general_prompts(Random(f"reader chats {seed}"))
    for number in numbers():
        if len(drawn) == count or number >= 40 * count:
            break
        prompt = next(questions)
        drawn.setdefault(prompt.content if len(drawn) % 2 else prompt.question)
    if len(drawn) < count:
        raise ConfigError(
            f"chats {count} are more than the {len(drawn)} different questions: ask for fewer", setting="chats"
        )
    return list(drawn)


def ask(server: ServerAddress, count: int, seed: int, path: Path, progress: bool = False) -> int:
    """Have the model answer `count` questions, and add each whole reply to the file; those already there are not asked.

    Returns how many replies were cut off or empty, and are not in the file. Raises `ConfigError` for a server that cannot
    be reached, and `RunError` where it fails later.
    """
    if path.exists():
        end_with_a_line(path)
    known = {turns[0].user for turns in read_chats(path)} if path.exists() else set()
    wanted = [prompt for prompt in prompts(count, seed) if prompt not in known]
    if not wanted:
        return 0
    asyncio.run(check_server(server))
    path.parent.mkdir(parents=True, exist_ok=True)
    left_out = asyncio.run(_ask(server, wanted, path, progress))
    if left_out > (1 - LEAST_KEPT) * len(wanted):
        raise DataError(
            f"{server.base_url} ended {len(wanted) - left_out} of {len(wanted)} replies within {REPLY_TOKENS} tokens: "
            "serve an instruct model",
            setting="chat",
        )
    return left_out


async def _ask(server: ServerAddress, wanted: list[str], path: Path, progress: bool) -> int:
    left_out = 0
    with path.open("a", encoding="utf-8") as file:  # in the order of the questions: the same replies make the same file
        async for number, completion in greedy_replies(server, wanted, REPLY_TOKENS, "chats" if progress else ""):
            text = without_thinking(completion.text).strip()
            if text and not completion.missing and ending(completion.finish_reason) is Ending.FINISHED:
                messages = [{"role": "user", "content": wanted[number]}, {"role": "assistant", "content": text}]
                file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
                file.flush()
            else:
                left_out += 1
    return left_out


def read_chats(path: Path) -> list[tuple[Turn, ...]]:
    """Return the conversations of a file of JSON lines. Raises `DataError`, with the line, for one of another form."""
    return list(_conversations(path))


def _conversations(path: Path) -> Iterator[tuple[Turn, ...]]:
    for line in JsonLines(path, WANTED):
        messages = line.value.get("messages") if isinstance(line.value, dict) else None
        if not isinstance(messages, list) or not messages or len(messages) % 2 or not _in_turn(messages):
            raise DataError(f"{path}:{line.number}: not a conversation: {WANTED}", setting="chat_rows")
        texts = [message["content"].strip() for message in messages]
        yield tuple(map(Turn, texts[::2], texts[1::2]))


def _in_turn(messages: list[Any]) -> bool:
    return all(
        isinstance(message, dict)
        and message.get("role") == ("user", "assistant")[i % 2]
        and isinstance(message.get("content"), str)
        and bool(message["content"].strip())
        for i, message in enumerate(messages)
    )
