"""A model asks itself about the document and answers, and only what holds up is kept.

`reply(messages, n)` is any model: `local` makes one of transformers, `endpoint` one of an OpenAI-compatible server.
Filters, cheapest first, each counted in the tally: the evidence stands in the chunk word for word, the answer stands in
the evidence, the question names what it is about, no near-duplicate, no sentence asked about again and again, and the
same model fails without the chunk and succeeds with it. Small models fail most of this: below 1 B parameters rely on
the other tasks.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any
from zlib import crc32

import openai

from environments.haystack.facts import SPLITS, in_split
from environments.haystack.tasks.independent import Answer
from environments.rollouts.scoring import find_values, normalise, without_thinking
from lift import LiftError
from lift.document.document import Document
from lift.tasks.items import Item, draws, sentences_of, shown

Reply = Callable[[list[dict[str, str]], int], list[str]]  # one chat -> n replies; one alone is the most likely one

CHUNK_SENTENCES = 16  # LIFT v3
CHUNK_CHARACTERS = 3000  # some 700 tokens: within any model's window
MOST_ALIKE = 0.5  # n-gram Jaccard of two questions with their answers, above which they are the same
NGRAM = 2  # words: questions are short
ASK = (
    "{chunk}\n\nWrite one question about a single fact in the text above, for someone who cannot see the text: name the "
    "person, place or thing that it is about. Reply with exactly three lines:\nQuestion: the question\n"
    "Answer: a few words copied from the text\nEvidence: the one sentence that says so, copied word for word"
)
# An exchange that shows the form: small models do not keep to one that is only described.
EXAMPLE = (
    "The ferry was late. Old Tobias Fenn had painted the lighthouse at Skerrow three times, and he always chose green. "
    "Nobody thanked him.",
    "Question: In which colour did Tobias Fenn paint the lighthouse at Skerrow?\nAnswer: green\n"
    "Evidence: Old Tobias Fenn had painted the lighthouse at Skerrow three times, and he always chose green.",
)
OPEN_BOOK = "{chunk}\n\n{question} Answer with a few words copied from the text above."
CLOSED_BOOK = "{question} Answer with a few words."

_FORM = re.compile(
    r"question\W*?:\s*(?P<question>\S[^\n]*)\s+answer\W*?:\s*(?P<answer>\S[^\n]*)\s+evidence\W*?:\s*(?P<evidence>\S[^\n]*)",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"question\W*?:\s*(\S[^\n]*\?)", re.IGNORECASE)
_MARKS = " \t*_\"'“”‘’"
_TRIVIAL = frozenset(("yes", "no", "true", "false", "none", "unknown"))
_POINTS = re.compile(
    r"\b(?:(?:the|this|that|these|given|above|following) (?:passages?|texts?|chunks?|excerpts?|paragraphs?|sentences?"
    r"|story|document|author|narrator|speaker|context)|above|according to)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"\b(?:he|she|it|they|him|her|them|his|hers|its|their|theirs|i|me|my|we|us|our|you|your|this|that|these|those)\b",
    re.IGNORECASE,
)
_NAMED = re.compile(r"(?<=[\w,;:'’\"“] )[\"“]?[A-Z][a-z]+|\d{2,}")


@dataclass(frozen=True)
class SelfStudy:
    """`proposals` questions are asked for at once; `per_sentence` items may rest on one sentence, so that the easy ones
    do not take all; the document is gone through `rounds` times, in other chunks each time."""

    reply: Reply = field(repr=False)
    proposals: int = 4
    per_sentence: int = 2
    rounds: int = 2
    kind: str = "self_study"

    def items(self, document: Document, n: int, seed: int, split: str) -> list[Item]:
        return self.study(document, n, seed, split)[0]

    def study(self, document: Document, n: int, seed: int, split: str) -> tuple[list[Item], Counter[str]]:
        """The items, and how many proposals were kept and dropped by which filter."""
        rng = draws(self.kind, document, seed, split)
        kept: list[Item] = []
        tally: Counter[str] = Counter()
        for chunk in (chunk for _ in range(self.rounds) for chunk in chunks(document, rng)):
            if len(kept) >= n:
                break
            text = document.text[chunk[0] : chunk[1]]
            example = [*_chat(ASK.format(chunk=EXAMPLE[0])), {"role": "assistant", "content": EXAMPLE[1]}]
            for said in self.reply([*example, *_chat(ASK.format(chunk=text))], self.proposals):
                item = proposal(self.kind, document, chunk, self._completed(document, chunk, said))
                why = item if isinstance(item, str) else self._drop(item, kept, document, text, split)
                tally[why or "kept"] += 1
                if not why and isinstance(item, Item):
                    kept.append(item)
        return kept[:n], tally

    def _completed(self, document: Document, chunk: tuple[int, int], said: str) -> str:
        """The reply of a model that stopped after the question, as small ones do, in full form: it is asked for the
        answer, and the evidence is the one sentence of the chunk that holds it."""
        question = _QUESTION.search(without_thinking(said))
        if _FORM.search(without_thinking(said)) or question is None:
            return said
        prompt = OPEN_BOOK.format(chunk=document.text[chunk[0] : chunk[1]], question=question[1])
        answer = (self.reply(_chat(prompt), 1) or [""])[0].strip().partition("\n")[0].strip(_MARKS).rstrip(".")
        inside = (span for span in document.sentences if chunk[0] <= span[0] and span[1] <= chunk[1])
        holding = [span for span in inside if normalise(answer) and _holds(document.text[slice(*span)], answer)]
        if len(holding) != 1:
            return said
        return f"Question: {question[1]}\nAnswer: {answer}\nEvidence: {shown(document, holding[0])}"

    def _drop(self, item: Item, kept: list[Item], document: Document, chunk: str, split: str) -> str | None:
        """The filter that drops an item, if any does."""
        if not in_split(item.question, split):
            return f"of split {SPLITS[1 - SPLITS.index(split)]}"
        if any(alike(item, other) > MOST_ALIKE for other in kept):
            return "duplicate"
        full = Counter(at for other in kept for at in sentences_of(document, other.evidence[0]))
        if any(full[at] >= self.per_sentence for at in sentences_of(document, item.evidence[0])):
            return "sentence asked about enough"
        if not self._says(item, OPEN_BOOK.format(chunk=chunk, question=item.question)):
            return "wrong with the text"
        if self._says(item, CLOSED_BOOK.format(question=item.question)):
            return "right without the text"
        return None

    def _says(self, item: Item, prompt: str) -> bool:
        """Whether the model's reply holds the answer. In a few words it may: only the text's own copy may not."""
        said = without_thinking((self.reply(_chat(prompt), 1) or [""])[0])
        return bool(find_values(said, Answer("one", (item.answer,), "text")))


def chunks(document: Document, rng: Random) -> Iterator[tuple[int, int]]:
    """Spans of whole sentences that cover the document, in random order; the borders are drawn anew."""
    spans = []
    first, most = 0, rng.randint(max(1, CHUNK_SENTENCES // 2), CHUNK_SENTENCES)
    sentences = document.sentences
    for at, (_, end) in enumerate(sentences):
        last = at + 1 == len(sentences)
        if last or at + 1 - first >= most or sentences[at + 1][1] - sentences[first][0] > CHUNK_CHARACTERS:
            # One "sentence" may be a whole table: what is beyond any window is left out.
            spans.append((sentences[first][0], min(end, sentences[first][0] + 2 * CHUNK_CHARACTERS)))
            first, most = at + 1, CHUNK_SENTENCES
    rng.shuffle(spans)
    yield from spans


def proposal(kind: str, document: Document, chunk: tuple[int, int], said: str) -> Item | str:
    """The item that a reply proposes, or the filter that it does not pass."""
    form = _FORM.search(without_thinking(said))
    if form is None:
        return "not in form"
    question, answer, evidence = (form[part].strip(_MARKS) for part in ("question", "answer", "evidence"))
    if (span := verbatim(document, chunk, evidence)) is None:
        return "evidence not in the text"
    answer = answer.removesuffix(".") if not evidence.endswith(answer) else answer.rstrip(".")
    if not _holds(evidence, answer):
        return "answer not in the evidence"
    if len(normalise(answer)) < 2 or normalise(answer) in _TRIVIAL:
        return "trivial answer"
    if _holds(question, answer):
        return "answer in the question"
    if not names_referent(question):
        return "names no referent"
    return Item(kind, question, answer, (span,))


def verbatim(document: Document, chunk: tuple[int, int], evidence: str) -> tuple[int, int] | None:
    """Where the words stand in the chunk, whatever white space is between them."""
    if not evidence.split():
        return None
    words = re.compile(r"\s+".join(map(re.escape, evidence.split())))
    match = words.search(document.text, *chunk)
    return match.span() if match else None


def names_referent(question: str) -> bool:
    """Whether a question can be understood alone: it points at no text, and names someone or something before any
    pronoun."""
    named = _NAMED.search(question)
    pronoun = _PRONOUN.search(question)
    return not _POINTS.search(question) and named is not None and (pronoun is None or named.start() < pronoun.start())


def alike(one: Item, other: Item) -> float:
    """Jaccard similarity of the word n-grams of two questions with their answers."""
    a, b = _ngrams(one), _ngrams(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def _ngrams(item: Item) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", f"{item.question} {item.answer}".lower())
    return {tuple(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)}


def _holds(text: str, answer: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(normalise(answer))}(?!\w)", normalise(text)) is not None


def _chat(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


# ---- models that reply ----


def local(model: Any, tokenizer: Any, max_new_tokens: int = 160, temperature: float = 0.7) -> Reply:
    """A transformers model. Several replies are drawn, with a seed made of the messages; a single one is greedy."""
    import torch  # here: tasks that need no model are made without it

    def reply(messages: list[dict[str, str]], n: int) -> list[str]:
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        drawn = {"do_sample": True, "temperature": temperature} if n > 1 else {"do_sample": False}
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(crc32(json.dumps(messages).encode()))
            out = model.generate(
                **prompt, **drawn, num_return_sequences=n, max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        return tokenizer.batch_decode(out[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)

    return reply


def endpoint(base_url: str, model: str, api_key: str, max_tokens: int = 160, temperature: float = 0.7) -> Reply:
    """A model behind an OpenAI-compatible server. Raises `LiftError` when it does not answer."""
    client = openai.OpenAI(base_url=base_url, api_key=api_key)

    def reply(messages: list[Any], n: int) -> list[str]:
        try:
            said = client.chat.completions.create(
                model=model, messages=messages, n=n, max_tokens=max_tokens, temperature=temperature if n > 1 else 0.0
            )
        except openai.OpenAIError as error:
            raise LiftError(
                f"{base_url} gave no reply for model {model!r} ({type(error).__name__}): check address, name and key"
            ) from None
        return [choice.message.content or "" for choice in said.choices]

    return reply
