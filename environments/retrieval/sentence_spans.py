"""Where the sentences of a text stand, in characters."""

import re

from environments.haystack.filler.sentences import split_by_script

_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:\r?\n[^\S\n]*\S(?:.*\S)?)*")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the character span (start, end) of every sentence, in order.

    Only white space stands between two spans; each paragraph is split by the rules of its script.
    """
    spans = []
    for paragraph in _PARAGRAPH.finditer(text):
        words = list(re.finditer(r"\S+", paragraph[0]))
        joined = " ".join(word[0] for word in words)
        # The character of the text at which each character of `joined` stands.
        places = [paragraph.start() + i for word in words for i in range(word.start(), word.end() + 1)]
        end = 0
        for sentence in split_by_script(joined):
            start = joined.index(sentence, end)
            end = start + len(sentence)
            spans.append((places[start], places[end - 1] + 1))
    return spans
