"""A conversation continued token for token: what a chat template writes between a reply and the next one.

The tokens of a reply are never made again from its text. Behind them stand those of what the template puts there: the end
of the reply unless the model wrote it, the message with the results, and the beginning of the next reply.
"""

from functools import cached_property

from environments.haystack.tokens import PLACEHOLDER, Tokens
from longthread.errors import ConfigError

REPLY = "\ue001reply\ue001"  # private use, as PLACEHOLDER: no template contains it
PROBE = (
    {"role": "user", "content": "Who is it?"},
    {"role": "assistant", "content": f"<search>a key</search>{REPLY}"},
    {"role": "user", "content": "[1] It is here."},
    {"role": "assistant", "content": f"<read>2-3</read>{REPLY}"},
    {"role": "user", "content": "[2] Or there."},
)


class Turns:
    """Continues conversations in one chat template. Raises `ConfigError` where it changes what a turn says."""

    def __init__(self, tokens: Tokens):
        self._tokens = tokens
        user, reply = PROBE[0], {"role": "assistant", "content": REPLY}
        text = tokens.render([user, reply, {"role": "user", "content": PLACEHOLDER}])
        if text.count(REPLY) != 1 or text.count(PLACEHOLDER) != 1:
            raise self._error("does not render earlier turns as they are")
        self._before, _, self._after = text.partition(REPLY)[2].partition(PLACEHOLDER)
        self._special = set(tokens.special)

    def between(self, reply: list[int], result: str) -> list[int]:
        """Return the tokens that follow a reply of these tokens: up to where the model writes on, having seen the result."""
        end = self._tokens.decode(reply[-1:])
        text = f"{self._before}{result}{self._after}"
        return self._tokens.encode(text.removeprefix(end) if end in self._special else text)

    @cached_property
    def appends(self) -> bool:
        """Whether the template only ever appends: a rendered conversation begins with what its earlier turns rendered to.

        White space before a reply is left to the model. Where this is false, as with templates that drop thinking from
        earlier turns, a chat server's prompts are not what was sampled before.
        """
        before, text = self._tokens.render(PROBE[:1]), self._tokens.render(PROBE)
        if not text.startswith(before):
            return False
        rest = text[len(before) :]
        for reply, result in ((PROBE[1], PROBE[2]), (PROBE[3], PROBE[4])):
            expected = f"{reply['content']}{self._before}{result['content']}{self._after}"
            rest = rest.lstrip()
            if not rest.startswith(expected):
                return False
            rest = rest[len(expected) :]
        return not rest

    def check_appends(self) -> None:
        """Raise `ConfigError` unless the template only appends."""
        if not self.appends:
            raise self._error("changes earlier turns, so that a chat server's prompts are not the tokens of a sequence")

    def _error(self, fault: str) -> ConfigError:
        name = getattr(self._tokens.tokenizer, "name_or_path", "") or type(self._tokens.tokenizer).__name__
        return ConfigError(
            f"the chat template of tokenizer {name!r} {fault}: serve it with a server of tokens (--openai.server_type vllm), "
            "or set tokenizer.chat_template to one that appends turns, and save it",
            setting=("reading", "tokenizer_name"),
        )
