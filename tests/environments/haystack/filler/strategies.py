"""Text to test the filler with: sentences that are plain, and text with everything that cleaning is about."""

from hypothesis import strategies as st

from environments.haystack.filler.passages import to_passages
from environments.haystack.filler.sentences import FOLLOWED

SPECIAL = ("<|im_end|>", "</s>", "<s>")
words = st.text("abcdefgh", min_size=2, max_size=7).filter(lambda word: not FOLLOWED.fullmatch(word))
marks = st.sampled_from([".", "?", "!", "...", '."', "?'"])
plain_sentence = st.builds(
    lambda first, rest, mark: " ".join([first.capitalize(), *rest]) + mark, words, st.lists(words, min_size=1), marks
)
# Text with everything that cleaning is about.
debris = st.lists(
    st.one_of(
        plain_sentence,
        st.sampled_from(
            [*SPECIAL, "<|im", "_end|>", "\n", "\n\n", "\r\n", "\t", " ", "\x00", "\ufeff", "\u200b", "-\n", "e\u0301"]
        ),
        st.text(max_size=8),
    ),
    max_size=40,
).map(lambda parts: " ".join(parts))


def sentences(text, **options):
    return [s for passage in to_passages(text, **options) for paragraph in passage for s in paragraph]


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)
