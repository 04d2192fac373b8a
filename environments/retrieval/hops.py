"""Search in hops, for questions that one fact answers only together with others: without a model.

A first search is for the question. The next ones are for the names, numbers or rare terms that stand in one sentence with
what was searched for: "Anna's tutor is Ben" leads from Anna to Ben. It follows names, not meaning: a fact that shares no
name with any other is found by the question or not at all.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain

from environments.retrieval.chunking import Chunk
from environments.retrieval.ranking import Hit, Ranking
from environments.retrieval.sentence_spans import sentence_spans
from environments.retrieval.terms import UNSPACED, terms

HOPS = 6
FIRST_SHARE = 4  # of k chunks one in so many is found by the question as a whole
SEARCHES = 12  # of one hop at most, those that fewest chunks hold first
DIGITS = 4  # a number with fewer leads everywhere

_WORD = re.compile(r"\w[\w'\u2019-]*")
_POSSESSIVE = re.compile(r"['\u2019]s?$", re.IGNORECASE)  # of the last word of a name


def search_in_hops(ranking: Ranking, question: str, k: int, hops: int = HOPS) -> list[Hit]:
    """Return at most `k` chunks: the best for the question, then those that its names lead to, hop by hop.

    Scores fall with the place, since those of different searches cannot be compared.
    """
    found = dict.fromkeys(hit.chunk for hit in ranking.search(question, -(-k // FIRST_SHARE)))
    searched = set[str]()
    leads = leads_of(question)
    for _ in range(hops):
        holding = {lead: _holding(ranking, lead, k) for lead in leads if lead not in searched}
        followed = sorted(
            (lead for lead in holding if 0 < len(holding[lead]) <= k), key=lambda lead: len(holding[lead])
        )
        if not followed or len(found) >= k:
            break
        searched.update(leads)
        sentences = list[str]()
        for lead in followed[:SEARCHES]:
            found.update(dict.fromkeys(holding[lead]))
            sentences += chain.from_iterable(_sentences_with(lead, chunk) for chunk in holding[lead])
        leads = list(dict.fromkeys(chain.from_iterable(map(leads_of, sentences))))
    return [Hit(chunk, 1 / place) for place, chunk in enumerate(list(found)[:k], 1)]


def leads_of(text: str) -> list[str]:
    """Return what to search for next: the names and long numbers of a text; its terms of two letters or more without any.

    A name is a run of capitalised words, up to a possessive, whose ending is left out; one word that begins a sentence is
    none, since it would be capitalised anyhow.
    """
    names = list(chain.from_iterable(_names(text[start:end]) for start, end in sentence_spans(text)))
    return list(dict.fromkeys(names or (term for term in terms(text) if len(term) > 1)))


def _names(sentence: str) -> Iterator[str]:
    run: list[re.Match[str]] = []
    for word in chain(_WORD.finditer(sentence), [None]):
        ended = bool(run) and _POSSESSIVE.search(run[-1][0])
        goes_on = run and word and not ended and not sentence[run[-1].end() : word.start()].strip()
        if word and word[0][0].isupper() and (goes_on or not run):
            run.append(word)
            continue
        if len(run) > 1 or (run and (run[0].start() > 0 or run[0][0].isupper() and len(run[0][0]) > 1)):
            yield _POSSESSIVE.sub("", sentence[run[0].start() : run[-1].end()])
        run = [word] if word and word[0][0].isupper() else []
        if word and word[0].isdigit() and len(word[0]) >= DIGITS:
            yield word[0]


def _holding(ranking: Ranking, lead: str, k: int) -> Sequence[Chunk]:
    """Return the chunks that hold a lead word for word, up to one more than `k`."""
    return [hit.chunk for hit in ranking.search(lead, k + 1) if stands_in(lead, hit.chunk.text)]


def stands_in(lead: str, text: str) -> bool:
    """Return whether a lead stands in a text as whole words, in upper or lower case."""
    words = r"\s+".join(map(re.escape, lead.split()))
    bounds = ("", "") if UNSPACED.search(lead) else (r"(?<!\w)", r"(?!\w)")
    return re.search(f"{bounds[0]}{words}{bounds[1]}", text, re.IGNORECASE) is not None


def _sentences_with(lead: str, chunk: Chunk) -> Iterator[str]:
    sentences = (chunk.text[start:end] for start, end in sentence_spans(chunk.text))
    return (sentence for sentence in sentences if stands_in(lead, sentence))
