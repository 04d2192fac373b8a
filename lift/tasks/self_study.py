"""A model writes questions and answers about the document, and filters keep the sound ones.

`reply(messages, n)` is any model: `local` wraps one of transformers, `endpoint` one of an OpenAI-compatible server.
Filters, cheapest first, each counted in a tally: the evidence stands in the chunk word for word; the answer stands in the
evidence; the question names what it is about; it is not a near-duplicate; its sentence has not had enough questions; the
same model answers it with the chunk and fails without. Models below 1 B parameters fail most of this: use the other tasks.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

from environments.haystack.facts import SPLITS, in_split
from environments.haystack.tasks.task import Answer
from environments.inference.completions import request_group
from environments.inference.contracts import CompletionRequest, PlainServer, ServerAddress
from environments.inference.endpoint import Endpoint
from environments.rollouts.thinking import without_thinking
from environments.rollouts.typography import pattern_of
from environments.rollouts.values import find_values, normalise
from lift.document.document import Document, Span
from lift.tasks.items import Item, Task, sentences_of
from longthread.language_model import CausalLM, ChatTokenizer

Message = dict[str, str]
Reply = Callable[[list[Message], int], list[str]]  # one chat -> n replies; one alone is the most likely one

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
class SelfStudy(Task):
    """Has a model write questions about the document, in `rounds` rounds of new chunks, `proposals` questions a chunk.

    At most `per_sentence` items rest on one sentence, so that easy sentences do not take all.
    """

    kind = "self_study"

    reply: Reply = field(repr=False)
    proposals: int = 4
    per_sentence: int = 2
    rounds: int = 2

    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Yield the items that `study` returns."""
        yield from self.study(document, n, split, rng)[0]

    def study(self, document: Document, n: int, split: str, rng: Random) -> tuple[list[Item], Counter[str]]:
        """Return at most `n` items, and a count of the proposals that were kept and that each filter dropped."""
        kept: list[Item] = []
        tally: Counter[str] = Counter()
        example = [*_chat(ASK.format(chunk=EXAMPLE[0])), {"role": "assistant", "content": EXAMPLE[1]}]
        for chunk in (chunk for _ in range(self.rounds) for chunk in chunks(document, rng)):
            if len(kept) >= n:
                break
            text = document.text[slice(*chunk)]
            for reply in self.reply([*example, *_chat(ASK.format(chunk=text))], self.proposals):
                item = proposal(self.kind, document, chunk, self._completed(document, chunk, reply))
                verdict = item if isinstance(item, str) else self._failed_filter(item, kept, document, text, split)
                tally[verdict or "kept"] += 1
                if not verdict and isinstance(item, Item):
                    kept.append(item)
        return kept[:n], tally

    def _completed(self, document: Document, chunk: Span, reply: str) -> str:
        """Return the reply in full form, if the model stopped after the question, as small ones do.

        The model is then asked for the answer, and the evidence is the one sentence of the chunk that holds it.
        """
        question = _QUESTION.search(without_thinking(reply))
        if _FORM.search(without_thinking(reply)) or question is None:
            return reply
        prompt = OPEN_BOOK.format(chunk=document.text[slice(*chunk)], question=question[1])
        answer = self._best_reply(prompt).strip().partition("\n")[0].strip(_MARKS).rstrip(".")
        inside = (span for span in document.sentences if chunk[0] <= span[0] and span[1] <= chunk[1])
        holding = [span for span in inside if normalise(answer) and _holds(document.text[slice(*span)], answer)]
        if len(holding) != 1:
            return reply
        return f"Question: {question[1]}\nAnswer: {answer}\nEvidence: {document.quote(holding[0])}"

    def _failed_filter(self, item: Item, kept: list[Item], document: Document, chunk: str, split: str) -> str | None:
        """Return the name of the first filter that drops the item, None if it passes all."""
        if not in_split(item.question, split):
            return f"of split {SPLITS[1 - SPLITS.index(split)]}"
        if any(alike(item, other) > MOST_ALIKE for other in kept):
            return "duplicate"
        uses = Counter(at for other in kept for at in sentences_of(document, other.evidence[0]))
        if any(uses[at] >= self.per_sentence for at in sentences_of(document, item.evidence[0])):
            return "sentence asked about enough"
        if not self._answers(item, OPEN_BOOK.format(chunk=chunk, question=item.question)):
            return "wrong with the text"
        if self._answers(item, CLOSED_BOOK.format(question=item.question)):
            return "right without the text"
        return None

    def _answers(self, item: Item, prompt: str) -> bool:
        """Return whether the model's reply holds the answer, in whatever words stand around it."""
        return bool(find_values(without_thinking(self._best_reply(prompt)), Answer("one", (item.answer,), "text")))

    def _best_reply(self, prompt: str) -> str:
        return (self.reply(_chat(prompt), 1) or [""])[0]


def chunks(document: Document, rng: Random) -> Iterator[Span]:
    """Yield character spans of whole sentences that cover the document, with random borders and in random order."""
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


def proposal(kind: str, document: Document, chunk: Span, reply: str) -> Item | str:
    """Return the item that a model's reply proposes, or the name of the filter that drops it."""
    form = _FORM.search(without_thinking(reply))
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


def verbatim(document: Document, chunk: Span, evidence: str) -> Span | None:
    """Return where the words of `evidence` stand in the chunk, as a character span; None if they do not.

    White space, quotes and dashes may differ.
    """
    if not evidence.split():
        return None
    match = re.compile(pattern_of(evidence)).search(document.text, *chunk)
    return match.span() if match else None


def names_referent(question: str) -> bool:
    """Return whether a question can be understood alone.

    It must not point at a text, and any pronoun must come after a name.
    """
    named = _NAMED.search(question)
    pronoun = _PRONOUN.search(question)
    return not _POINTS.search(question) and named is not None and (pronoun is None or named.start() < pronoun.start())


def alike(one: Item, other: Item) -> float:
    """Return the Jaccard similarity, 0 to 1, of the word n-grams of two questions with their answers."""
    a, b = _ngrams(one), _ngrams(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def _ngrams(item: Item) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", f"{item.question} {item.answer}".lower())
    return {tuple(words[at : at + NGRAM]) for at in range(len(words) - NGRAM + 1)}


def _holds(text: str, answer: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(normalise(answer))}(?!\w)", normalise(text)) is not None


def _chat(content: str) -> list[Message]:
    return [{"role": "user", "content": content}]


# ---- models that reply ----


def local(model: CausalLM, tokenizer: ChatTokenizer, max_new_tokens: int = 160, temperature: float = 0.7) -> Reply:
    """Wrap a transformers model as a function from a chat to `n` replies.

    One reply is greedy; several are sampled, seeded by the messages.
    """
    import torch  # here: tasks that need no model are made without it

    def reply(messages: list[Message], n: int) -> list[str]:
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        sampling = {"do_sample": True, "temperature": temperature} if n > 1 else {"do_sample": False}
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(crc32(json.dumps(messages).encode()))
            ids_BL = model.generate(
                **prompt, **sampling, num_return_sequences=n, max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        replies_BL = ids_BL[:, prompt["input_ids"].shape[1] :]
        return [tokenizer.decode(reply, skip_special_tokens=True) for reply in replies_BL]

    return reply


def endpoint(base_url: str, model: str, api_key: str, max_tokens: int = 160, temperature: float = 0.7) -> Reply:
    """Wrap a model behind an OpenAI-compatible server; `temperature` is that of several replies, one is greedy.

    A reply raises `RunError` when the server refuses it, or is away for too long.
    """
    server = Endpoint(PlainServer(ServerAddress(base_url, api_key, model)), None)

    def reply(messages: list[Message], n: int) -> list[str]:
        request = CompletionRequest(messages, [], max_tokens, temperature if n > 1 else 0.0)
        return [completion.text for completion in asyncio.run(request_group([server], request, n))]

    return reply
