"""Sentences a second of the splitters that filler and documents are cut with: English rules, `sentencex` for other scripts.

    python -m benchmarks.sentence_borders

Where `pysbd` is installed it is measured too, for comparison.
"""

import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec

from environments.haystack.filler.sentences import split_by_script, split_sentences

PARAGRAPHS = 2000
TEXTS = {
    "English": "The old house stood by the river. Who lived there? Nobody knew, and Mr. Brown said little about it.",
    "Chinese": "河边的老房子很安静。住在那里的人是谁？没有人知道，“我也不知道。”他很少谈起它。",
    "Japanese": "川のそばの古い家は静かだった。誰が住んでいたのか？誰も知らない。彼はあまり話さなかった。",
    "Hindi": "नदी के पास का पुराना घर शांत था। वहाँ कौन रहता था? किसी को नहीं पता।",
    "Arabic": "كان البيت القديم عند النهر هادئا. من كان يسكن هناك؟ لا أحد يعرف.",
}


def rate(split: Callable[[str], Iterable[str]], paragraph: str) -> float:
    """Return the sentences a second that a splitter finds in copies of a paragraph."""
    start, n = time.perf_counter(), 0
    for _ in range(PARAGRAPHS):
        n += len(list(split(paragraph)))
    return n / (time.perf_counter() - start)


def main() -> None:
    """Print a row for each language."""
    print("| language | by its script | English rules | pysbd |\n|---|---:|---:|---:|")
    for language, paragraph in TEXTS.items():
        rates = [rate(split_by_script, paragraph), rate(split_sentences, paragraph)]
        if find_spec("pysbd"):
            import pysbd  # type: ignore[import-untyped,import-not-found,unused-ignore]

            code = {"English": "en", "Chinese": "zh", "Japanese": "ja", "Hindi": "hi", "Arabic": "ar"}[language]
            rates.append(rate(pysbd.Segmenter(language=code, clean=False).segment, paragraph))
        print(f"| {language} | {' | '.join(f'{value:,.0f}' for value in rates)} |")


if __name__ == "__main__":
    main()
