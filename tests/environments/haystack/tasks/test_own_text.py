"""Questions about the text itself: exact, with one answer, in any text; and one line where a text has none."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.text_solver import faults, text_of
from environments.haystack.filler.counted_passage import Passage
from environments.haystack.filler.word_index import WordIndex, words
from environments.haystack.layout import Hidden, LayoutError, lay_out, reference_layout
from environments.haystack.sample import Haystacks, Options, Sample, rebuild
from environments.haystack.tasks import TASKS
from environments.rollouts.scoring import score
from longthread.errors import ConfigError
from tests.conftest import build_tokenizer, make_haystacks

TASKS_OF_TEXT = ("cloze", "entity", "reconstruct", "absent_cloze", "absent_entity")
NOVEL = Path(__file__).parents[3] / "data" / "persuasion.txt.gz"
CHINESE = (
    "张伟在{}年去了{}市，他在那里买了一本关于{}的旧书。",
    "后来{}先生写信说，{}河边的{}花已经开了。",
    "没有人知道{}的门为什么开着，也没有人问过{}。",
)


def length_of(task: str) -> int:
    return 6000 if task == "reconstruct" else 3000


@cache
def of_corpus(path: Path) -> Haystacks:
    return Haystacks(
        build_tokenizer("gpt2"), Options(filler="folder", filler_path=str(path), pool_tokens=16_384, gaps="2")
    )


@pytest.fixture(scope="module")
def novel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("novel") / "persuasion.txt"
    path.write_bytes(gzip.decompress(NOVEL.read_bytes()))
    return path


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = Random(0)

    def chapter() -> str:
        """Six paragraphs about the same few people and places."""
        names = ["".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(3)) for _ in range(3)]
        years = [str(rng.randrange(1000, 2000)) for _ in range(3)]
        sentence = lambda: rng.choice(CHINESE).format(*rng.choices(names + years, k=3))  # noqa: E731
        return "\n\n".join("".join(sentence() for _ in range(5)) for _ in range(6))

    text = "\n\n".join(chapter() for _ in range(40))
    path = tmp_path_factory.mktemp("chinese") / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def check(haystacks: Haystacks, sample: Sample) -> None:
    assert faults(sample) == []
    ids = haystacks.tokens.encode(haystacks.tokens.render(sample.messages))
    assert len(ids) == sample.length
    for needle in sample.needles:
        assert haystacks.tokens.decode(ids[needle.token_start : needle.token_end]).strip() == needle.text
        assert (needle.before[-9:] + needle.text + needle.after[:9]) in sample.messages[0]["content"]


@pytest.mark.parametrize("task", TASKS_OF_TEXT)
def test_prose_has_one_answer_to_the_token(task: str) -> None:
    for seed in range(8):
        haystacks = make_haystacks("gpt2", numbered=seed % 2 == 1)
        split = "eval" if seed % 4 == 0 else "train"
        check(haystacks, haystacks.sample(seed % 2, split, task, length_of(task) + seed, [seed / 7] * 4))


@pytest.mark.parametrize("task", TASKS_OF_TEXT)
def test_any_tokenizer(task: str, tokenizer_name: str) -> None:
    haystacks = make_haystacks(tokenizer_name)
    sample = haystacks.sample(3, "train", task, length_of(task))
    assert faults(sample) == []
    assert len(haystacks.tokens.encode(haystacks.tokens.render(sample.messages))) == sample.length


@pytest.mark.parametrize("task", TASKS_OF_TEXT)
def test_a_novel(task: str, novel: Path) -> None:
    for seed in range(6):
        check(of_corpus(novel), of_corpus(novel).sample(seed, "eval" if seed % 3 else "train", task, length_of(task)))


@pytest.mark.parametrize("task", TASKS_OF_TEXT)
def test_a_script_without_blanks(task: str, chinese: Path) -> None:
    for seed in range(5):
        check(
            of_corpus(chinese), of_corpus(chinese).sample(seed, "eval" if seed % 3 else "train", task, length_of(task))
        )


def test_rebuilt_byte_for_byte(novel: Path) -> None:
    for task in TASKS_OF_TEXT:
        sample = of_corpus(novel).sample(5, "train", task, length_of(task))
        assert rebuild(sample.recipe, build_tokenizer("gpt2")) == sample


def test_train_and_eval_ask_about_different_sentences(novel: Path) -> None:
    def asked(split: str) -> set[str]:
        return {of_corpus(novel).sample(seed, split, "cloze", 2000).needles[0].text for seed in range(40)}

    assert not asked("train") & asked("eval")


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_the_sentence_stands_at_the_depth_asked_for(place: float) -> None:
    haystacks = make_haystacks("gpt2")
    needles = [haystacks.sample(seed, "train", "cloze", 16_384, [place]).needles[0] for seed in range(3)]
    assert all(abs(needle.depth - place) < 0.05 for needle in needles)  # a passage takes 400 tokens


@pytest.mark.parametrize("numbered", [False, True])
def test_blocks_are_laid_out_as_the_specification_says(numbered: bool) -> None:
    pool = make_haystacks("gpt2").pool("train", 0)
    texts = [pool.passages[i].text for i in (3, 8)]
    hidden = Hidden(texts, [0.2, 0.7], between=True, without=frozenset([3, 8]))
    fast, slow = (lay(pool, hidden, 4000, Random(1), numbered) for lay in (lay_out, reference_layout))
    assert fast.text == slow.text and all(fast.text.count(text) == 1 for text in texts)
    for name in ("starts", "ends", "chars", "passages"):
        assert getattr(fast, name).tolist() == getattr(slow, name).tolist()


def test_what_is_left_out_is_not_in_the_text() -> None:
    haystacks = make_haystacks("gpt2")
    for seed in range(20):
        sample = haystacks.sample(seed, "train", "absent_cloze", 8192)
        left, right = re.findall(r'"(.*)____(.*)"', sample.question)[0]
        assert max(left, right, key=len) not in text_of(sample)


def test_reconstruct_pays_for_each_paragraph_in_its_gap() -> None:
    sample = make_haystacks("gpt2", gaps="4").sample(0, "train", "reconstruct", 8192)
    right = list(sample.answer.values)
    assert sorted(right) == ["1", "2", "3", "4"] and sample.answer.kind == "list"
    swapped = [right[1], right[0], *right[2:]]
    assert score(f"<answer>{'; '.join(swapped)}</answer>", sample.answer).score == 0.5
    in_order = make_haystacks("gpt2", gaps="4", partial_order=True).sample(0, "train", "reconstruct", 8192)
    assert in_order.answer.kind == "partial_order" and score(", ".join(right), in_order.answer, "plain").score == 1


@pytest.mark.parametrize("task", ["cloze", "entity"])
def test_plain_replies(task: str) -> None:
    for seed in range(15):
        answer = make_haystacks("gpt2", answer_format="plain").sample(seed, "train", task, 3000).answer
        (word,) = answer.values
        for reply in (word, f"The missing word is {word}.", f'"{word}"', f"It is {word.upper()}"):
            assert score(reply, answer, "plain").score == 1, reply
        for reply in (f"{word}, Other", f"Other and {word}", f"{word}s", f"somewhere near {word} it went"):
            assert score(reply, answer, "plain").score == 0, reply


@pytest.mark.parametrize("word", ["Łódź", "हिन्दी", "北京", "1814", "naïve"])
def test_a_word_of_any_script_is_read_in_a_plain_reply(word: str) -> None:
    from environments.haystack.tasks.task import Answer

    answer = Answer("one", (word,), "word")
    assert score(f"The word is {word}.", answer, "plain").score == score(f"<answer>{word}</answer>", answer).score == 1


# ---- the words of a text ----


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('He said: "Go, Anne!" (twice).', ["He", "said", "Go", "Anne", "twice"]),
        ("mother-in-law 3.14 o'clock 1814, end", ["1814", "end"]),
        ("मैं हिन्दी में लिखता हूँ।", ["मैं", "हिन्दी", "में", "लिखता", "हूँ"]),
        ("他去了，北京", ["他去", "去了", "北京"]),
        ("ฉันรักภาษา", ["ฉันรักภ", "นรักภา", "รักภาษ", "กภาษา"]),
        ("«Łódź» naïve", ["Łódź", "naïve"]),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert [text[a:b] for a, b in words(text)] == found


def test_the_index_counts_as_a_slow_count_does() -> None:
    passages: list[Passage] = make_haystacks("gpt2").pool("train", 0).passages[:12]
    index, text = WordIndex(passages), "\n\n".join(p.text for p in passages)
    slow = [word.strip(".,;:!?\"'()[]").casefold() for word in text.split()]
    rare = {passages[p.passage].text[p.start : p.end].casefold() for p in index.rare}
    assert rare == {word for word, n in Counter(slow).items() if n == 1 and len(word) >= 4 and word.isalnum()}
    assert all(index.stands_once(word) == (text.casefold().count(word) == 1) for word in [*rare][:50])
    for place in (place for places in index.entities for place in places):
        word = passages[place.passage].text[place.start : place.end]
        assert word[0].isupper() and word.lower() not in text.split()


# ---- what cannot be asked ----


def message(task: str, **options: Any) -> str:
    haystacks = (
        make_haystacks("gpt2") if "filler" not in options else Haystacks(build_tokenizer("gpt2"), Options(**options))
    )
    with pytest.raises(ConfigError) as error:
        haystacks.variant(Options(**{"pool_tokens": 65_536, **options})).sample(0, "train", task, 1024)
    assert "\n" not in error.value.message
    return error.value.message


@pytest.mark.parametrize("task", ["cloze", "entity", "reconstruct"])
def test_no_lexical_gap(task: str) -> None:
    assert f"task {task} repeats words of the text" in message(task, lexical_gap=True)


def test_a_corpus_without_names_and_numbers(tmp_path: Path) -> None:
    rng = Random(1)
    letters = "abcdefghijklmnop"
    text = " ".join(" ".join("".join(rng.sample(letters, 5)) for _ in range(9)).capitalize() + "." for _ in range(400))
    (tmp_path / "text.txt").write_text(text)
    own = {"filler": "folder", "filler_path": str(tmp_path), "pool_tokens": 4096}
    assert "no sentence that is known by its beginning and holds one name or number" in message("entity", **own)
    assert "fewer than" in message("reconstruct", **own)  # one endless paragraph


def test_too_short_for_the_passages() -> None:
    with pytest.raises(LayoutError) as error:
        make_haystacks("gpt2", gaps="8").sample(0, "train", "reconstruct", 1500)
    assert "do not fit" in error.value.message and "\n" not in error.value.message


@pytest.mark.parametrize(("gaps", "words_"), [("1", "outside 2 to 8"), ("many", "a number or a range")])
def test_bad_gaps(gaps: str, words_: str) -> None:
    assert words_ in message("reconstruct", gaps=gaps)


def test_every_task_of_text_is_registered() -> None:
    assert set(TASKS_OF_TEXT) <= set(TASKS)
