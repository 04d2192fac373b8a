"""Exact token arithmetic: how many tokens each piece of a prompt will cost, without tokenising the prompt.

A haystack is sentences joined by " " and paragraphs joined by "\\n\\n". With nearly every tokenizer in use the tokens of
such a text are the sum of the tokens of its pieces, provided that each piece is counted *in its place*: after a space or
after a blank line, before a space or before one (".\\n\\n" is one token for some tokenizers and three for others). So every
piece is tokenised once, between two anchors, and counts add up. `Tokens.additive` says whether that held on real text;
where it does not, the layout corrects itself by tokenising the finished prompt.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from environments.haystack import light_tokenizer
from environments.haystack.chat_template import ChatTemplate
from longthread.errors import ConfigError
from longthread.language_model import ChatTokenizer, PromptTokenizer

# What stands before and after a piece while it is counted. Both are plain letters, because a haystack always goes on
# with a letter there and because a tokenizer treats the very start and end of a text differently from its middle.
LEFT, RIGHT = "a.", "A"
BREAK = "\n\n"
LONG = 20_000  # characters
PROOFS = 4  # prompts that are encoded both as a whole and by paragraphs, before the latter is trusted
REMEMBERED = 16_384  # paragraphs: a few pools of 128k-token haystacks, some 40 MB
PLACEHOLDER = "\ue000haystack\ue000"  # private use area: no template and no corpus contains it


def load_tokenizer(name: str) -> PromptTokenizer:
    """Return the chat tokenizer of a local folder or a hub name, for haystacks and rows. Raises `ConfigError`.

    It is transformers' own, or a `LightTokenizer` where that is known to be the same; see `load_full_tokenizer`.
    """
    return light_tokenizer.load(name) or load_full_tokenizer(name)


def load_full_tokenizer(name: str) -> ChatTokenizer:
    """Return the tokenizer as transformers loads it, for models and trainers. Raises `ConfigError`."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        return tokenizer
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for the same user mistake
        kind = "folder" if Path(name).is_dir() else "name"
        reason = str(error).strip().split("\n")[0][:200]
        raise ConfigError(
            f"tokenizer {kind} {name!r} cannot be loaded ({reason}); give a local folder with tokenizer.json and "
            "tokenizer_config.json, or a hub name that this machine can reach",
            setting="tokenizer_name",
        ) from None


class Tokens:
    """Counts and encodes texts and renders chat prompts for one tokenizer.

    `template`: variables of the chat template's own, like `{"enable_thinking": False}`.
    Raises `ConfigError` when the tokenizer has no chat template or is not a fast (Rust) one. Rendering raises it
    too, for a template that does not render text as it is.
    """

    def __init__(self, tokenizer: PromptTokenizer, template: Mapping[str, Any] | None = None):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                f"tokenizer {name!r} is not a fast tokenizer; save it with a tokenizer.json", setting="tokenizer_name"
            )
        if not tokenizer.chat_template:
            raise ConfigError(
                f"tokenizer {name!r} has no chat template; use an instruct model's tokenizer or set "
                "tokenizer.chat_template and save it",
                setting="tokenizer_name",
            )
        self.tokenizer, self.chat = tokenizer, ChatTemplate(tokenizer, template)
        self._backend = tokenizer.backend_tokenizer
        self._left = len(self.encode(LEFT))
        self._left_break = len(self.encode(LEFT + BREAK + RIGHT)) - 1
        self._paragraph = lru_cache(maxsize=REMEMBERED)(self._paragraph_ids)
        self._joins: bool | None = None  # not known yet
        self._proofs = 0

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over vocabulary, merges, special tokens, chat template and its variables, if any."""
        state = json.loads(self._backend.to_str())
        state.pop("truncation", None)  # set by calls, not part of what the tokenizer is
        state.pop("padding", None)
        parts = [state, self.tokenizer.chat_template, *([self.chat.variables] if self.chat.variables else [])]
        blob = json.dumps(parts, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(blob.encode()).hexdigest()[:16]

    @cached_property
    def special(self) -> tuple[str, ...]:
        """Strings that the tokenizer turns into control tokens; a corpus must not contain them."""
        added = self._backend.get_added_tokens_decoder().values()
        return tuple(sorted({token.content for token in added if token.content.strip()}, key=len, reverse=True))

    def _whole(self) -> Tokenizer:
        """The backend with truncation and padding off: a call elsewhere, or tokenizer.json itself, may have left them on."""
        if self._backend.truncation:
            self._backend.no_truncation()
        if self._backend.padding:
            self._backend.no_padding()
        return self._backend

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text as it stands: no special token added, those spelled out in the text recognised."""
        # `encode` holds the interpreter's lock, and with it every other thread, for a third of a second at 128k tokens; the
        # other one lets go of it, and then has to wait for it, which for a short text takes longer than the work.
        if len(text) > LONG:
            return self._whole().encode_batch_fast([text], add_special_tokens=False)[0].ids
        return self._whole().encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str, length: int) -> list[int]:
        """Return the token ids of a prompt of `length` tokens; a paragraph that recurs is encoded once, in its place.

        At 128k tokens that takes 3 ms instead of 200. Where the tokens of this tokenizer do not join at blank lines,
        the prompt is encoded as a whole. The first prompts are encoded both ways to find out, and the tokens of all are
        counted. Raises `ConfigError` for a prompt of another length.
        """
        ids = self._prompt_ids(text, length)
        if len(ids) != length:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens, not {length}: the pieces of its text do not add up with this tokenizer; "
                "use another filler or tokenizer",
                setting=("filler_path", "tokenizer_name"),
            )
        return ids

    def _prompt_ids(self, text: str, length: int) -> list[int]:
        if self._joins is False:
            return self.encode(text)
        head, *paragraphs = text.split(BREAK)
        while len(paragraphs) > 1 and not paragraphs[-1]:  # a template that ends with a blank line
            paragraphs = [*paragraphs[:-2], paragraphs[-2] + BREAK]
        if not paragraphs or not all(paragraphs):
            return self.encode(text)
        ids = self.encode(head + BREAK + RIGHT)[:-1]
        for paragraph in paragraphs[:-1]:
            ids += self._paragraph(paragraph)
        ids += self.encode(LEFT + BREAK + paragraphs[-1])[self._left_break :]
        if self._joins is None:
            whole = self.encode(text)
            self._proofs += 1
            # At least: several threads count at a time.
            self._joins = False if ids != whole else True if self._proofs >= PROOFS else None
            return whole
        return ids if len(ids) == length else self.encode(text)

    def _paragraph_ids(self, text: str) -> list[int]:
        return self.encode(LEFT + BREAK + text + BREAK + RIGHT)[self._left_break : -1]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the token ids, special tokens spelled out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the text's token ids, and the (start, end) characters of each token."""
        encoding = self._whole().encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, encoded as it stands."""
        return [len(e.ids) for e in self._whole().encode_batch_fast(list(texts), add_special_tokens=False)]

    # Where a piece stands decides what it costs. "mid": after " " and before " ". "final": after " ", before a blank
    # line, whose tokens it carries. "initial": after a blank line, before " ". "alone": a paragraph of its own.

    def mid(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each sentence takes between two others of its paragraph."""
        return [n - self._left for n in self.lengths([f"{LEFT} {text}" for text in texts])]

    def final(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each sentence takes at the end of its paragraph, with the blank line behind it."""
        return [n - self._left - 1 for n in self.lengths([f"{LEFT} {text}{BREAK}{RIGHT}" for text in texts])]

    def initial(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each sentence takes at the beginning of its paragraph."""
        return [n - self._left_break for n in self.lengths([LEFT + BREAK + text for text in texts])]

    def alone(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each sentence takes as a paragraph of its own, with the blank line behind it."""
        return [n - self._left_break - 1 for n in self.lengths([LEFT + BREAK + text + BREAK + RIGHT for text in texts])]

    def head(self, text: str) -> int:
        """Return how many tokens the beginning of a prompt takes, with the blank line after it."""
        return len(self.encode(text + BREAK + RIGHT)) - 1

    def tail(self, text: str) -> int:
        """Return how many tokens the end of a prompt takes, without the blank line before it."""
        return len(self.encode(LEFT + BREAK + text)) - self._left_break

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the chat prompt as text, ending where the assistant begins to write. Raises `ConfigError`."""
        return self.chat.render(messages)

    def frame(self, content: str) -> tuple[str, str]:
        """Return the parts of a rendered prompt before and after `PLACEHOLDER`; its user message is `content`.

        `content` holds `PLACEHOLDER` once.
        """
        before, _, after = self.render([{"role": "user", "content": content}]).partition(PLACEHOLDER)
        return before, after
