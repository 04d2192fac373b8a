"""One greedy reply to each of many messages, from a served model, many at a time."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from tqdm import tqdm

from environments.inference.completions import request_group
from environments.inference.contracts import Completion, CompletionRequest, PlainServer, ServerAddress
from environments.inference.endpoint import Endpoint

AT_A_TIME = 64  # requests


async def greedy_replies(
    server: ServerAddress, messages: Sequence[str], tokens: int, shown: str = ""
) -> AsyncIterator[tuple[int, Completion]]:
    """Yield each message's number with its reply of at most `tokens` tokens, in the order of the messages.

    `shown` is the name of a progress bar, "" for none. Raises `RunError` where the server fails.
    """
    endpoint, room = Endpoint(PlainServer(server), None), asyncio.Semaphore(AT_A_TIME)

    async def reply(message: str) -> Completion:
        async with room:
            request = CompletionRequest([{"role": "user", "content": message}], [], tokens, temperature=0.0)
            [completion] = await request_group([endpoint], request, 1)
            return completion

    tasks = [asyncio.create_task(reply(message)) for message in messages]
    try:
        for number, task in enumerate(tqdm(tasks, shown, disable=not shown)):
            yield number, await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
