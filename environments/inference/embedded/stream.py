"""Server-sent events: the text of a request's replies piece by piece, as the engine makes their tokens."""

import asyncio
import json
from collections.abc import Callable, Sequence

from aiohttp import web

from environments.inference.embedded.protocol import Generation, RequestError, usage
from longthread.files import JsonObject

HALF = "\ufffd"  # what the bytes of an unfinished character decode to


class TextStream:
    """Pieces of text of several replies. `on_token` is called in the engine's thread, the pieces are taken in the loop's.

    A piece is held back while it may still change: half a character, or the beginning of a stop string.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], n: int) -> None:
        self._decode, self._stops = decode, stops
        self._sent = [0] * n  # characters
        self._loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str] | None]()

    def on_token(self, index: int, ids: Sequence[int]) -> None:
        """Take in that reply number `index` has one more token."""
        text = self._decode(ids)
        self._send(index, text[: len(text) - self._unsettled(text)])

    def end(self, texts: Sequence[str]) -> None:
        """Send what is missing of the whole texts, and close the stream. An error before it closes it with no texts."""
        for index, text in enumerate(texts):
            self._send(index, text)
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, None)

    def _send(self, index: int, text: str) -> None:
        if len(text) > self._sent[index]:
            piece, self._sent[index] = text[self._sent[index] :], len(text)
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

    def _unsettled(self, text: str) -> int:
        """Characters at the end that may not be the text's own."""
        for stop in self._stops:  # a stop string ends the text where it begins
            if (at := text.find(stop)) >= 0:
                return len(text) - at
        longest = max((k for stop in self._stops for k in range(1, len(stop)) if text.endswith(stop[:k])), default=0)
        return max(longest, len(text) - len(text.rstrip(HALF)))

    async def answer(
        self,
        request: web.Request,
        running: asyncio.Future[list[Generation]],
        head: JsonObject,
        prompt: Sequence[int] | None,
    ) -> web.StreamResponse:
        """Write the events: the pieces, how each reply ended, and with a `prompt` the usage. A client that goes ends it."""
        chat = head["object"] == "chat.completion.chunk"

        def event(index: int, text: str | None, finish_reason: str | None = None) -> JsonObject:
            delta = {} if text is None else {"role": "assistant", "content": text}
            part = {"delta": delta} if chat else {"text": text or ""}
            return head | {"choices": [{"index": index, **part, "finish_reason": finish_reason}]}

        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        try:
            while (piece := await self._pieces.get()) is not None:
                await _send(response, event(*piece))
            generations = await running
            for index, generation in enumerate(generations):
                await _send(response, event(index, None, generation.finish_reason))
            if prompt is not None:
                await _send(response, head | {"choices": [], "usage": usage(prompt, generations)})
            await response.write(b"data: [DONE]\n\n")
        except RuntimeError as error:  # the engine's: the head is sent, so it is told in an event
            await _send(response, RequestError(f"the model failed: {error}", 500, "internal_error").to_json())
        finally:
            running.cancel()
        return response


async def _send(response: web.StreamResponse, value: JsonObject) -> None:
    await response.write(f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode())
