"""Small corpora of many shapes and scripts, each of some 20,000 tokens and written for these tests."""

import json
from collections.abc import Callable
from itertools import islice, product
from pathlib import Path
from random import Random

ENGLISH = "the old house by the river was quiet and people who lived there said little about it".split()
# For each language: beginnings, middles, ends and final marks, whose products are its sentences.
PARTS: dict[str, tuple[list[str], list[str], list[str], list[str]]] = {
    "chinese": (
        ["老人", "她的邻居", "河边的孩子", "一个陌生人", "那位校长", "我们"],
        ["昨天晚上", "从来不", "在旧市场里", "和朋友一起", "很久以前就"],
        ["卖了三筐苹果", "写信给城里的哥哥", "修好了那座木桥", "谈起那场大雨", "听见远处的钟声"],
        ["。", "！", "？", "……。"],
    ),
    "japanese": (
        ["老人は", "隣の娘は", "駅長は", "あの旅人は", "私たちは"],
        ["昨日の夕方", "いつも静かに", "川のそばで", "友だちと一緒に", "ずっと前から"],
        ["古い橋を直していた", "手紙を書いた", "りんごを三箱売った", "「どこへ行くの」と聞いた", "鐘の音を聞いた"],
        ["。", "！", "？"],
    ),
    "hindi": (
        ["बूढ़ा आदमी", "उसका पड़ोसी", "नदी के पास का बच्चा", "वह अजनबी", "हम सब"],
        ["कल शाम को", "पुराने बाज़ार में", "अपने दोस्त के साथ", "बहुत पहले", "धीरे धीरे"],
        ["तीन टोकरी सेब बेचते हैं", "भाई को चिट्ठी लिखते हैं", "लकड़ी का पुल बनाते हैं", "घंटी सुनते हैं"],
        ["।", "?", "!", "।"],
    ),
    "arabic": (
        ["الرجل العجوز", "جارها", "الطفل عند النهر", "الغريب", "نحن"],
        ["مساء أمس", "في السوق القديم", "مع صديقه", "منذ زمن بعيد", "بهدوء"],
        ["باع ثلاث سلال من التفاح", "كتب رسالة إلى أخيه", "أصلح الجسر الخشبي", "سمع الجرس"],
        [".", "؟", "!", "۔"],
    ),
    "thai": (
        ["ชายชรา", "เพื่อนบ้านของเธอ", "เด็กริมแม่น้ำ", "คนแปลกหน้า", "พวกเรา"],
        ["เมื่อเย็นวานนี้", "ในตลาดเก่า", "กับเพื่อนของเขา", "นานมาแล้ว", "อย่างเงียบๆ"],
        ["ขายแอปเปิ้ลสามตะกร้า", "เขียนจดหมายถึงพี่ชาย", "ซ่อมสะพานไม้", "ได้ยินเสียงระฆัง"],
        [""],
    ),
    "burmese": (
        ["အဖိုးအို", "အိမ်နီးချင်း", "ကလေး", "ဧည့်သည်"],
        ["မနေ့က", "ဈေးဟောင်းမှာ", "သူငယ်ချင်းနဲ့", "ကြာပြီ"],
        ["ပန်းသီးရောင်းတယ်", "စာရေးတယ်", "တံတားပြင်တယ်", "ခေါင်းလောင်းသံကြားတယ်"],
        ["။"],
    ),
    "russian": (
        ["Старик", "Её сосед", "Ребёнок у реки", "Незнакомец"],
        ["вчера вечером", "на старом рынке", "вместе с другом", "давно"],
        ["продал три корзины яблок", "написал письмо брату", "починил деревянный мост", "услышал колокол"],
        [".", "!", "?"],
    ),
    "korean": (
        ["노인은", "이웃은", "강가의 아이는", "낯선 사람은"],
        ["어제 저녁에", "오래된 시장에서", "친구와 함께", "오래전에"],
        ["사과를 팔았다", "편지를 썼다", "나무 다리를 고쳤다", "종소리를 들었다"],
        [".", "?", "!"],
    ),
}
UNSPACED = {"chinese", "japanese"}


def sentences_of(language: str, n: int, seed: int = 0) -> list[str]:
    """`n` sentences of a language; no two are alike, for each has a number."""
    rng, (firsts, middles, lasts, marks) = Random(f"{language} {seed}"), PARTS[language]
    glue = "" if language in UNSPACED | {"thai"} else " "
    drawn = (
        glue.join([rng.choice(firsts), *rng.sample(middles, rng.randint(1, 3)), rng.choice(lasts)]) for _ in range(n)
    )
    return [f"{text}{glue}{i}{rng.choice(marks)}" for i, text in enumerate(drawn)]


def written_in(language: str, n: int = 1500) -> str:
    """Paragraphs of one to six sentences."""
    rng, sentences = Random(language), iter(sentences_of(language, n))
    glue = "" if language in UNSPACED else " "
    paragraphs: list[str] = []
    while paragraph := list(islice(sentences, rng.randint(1, 6))):
        paragraphs.append(glue.join(paragraph))
    return "\n\n".join(paragraphs)


def english(words: tuple[int, int], n: int, mark: str = ".") -> list[str]:
    """Sentences of so many words each."""
    rng = Random(f"{words} {mark}")
    texts = (" ".join(rng.choice(ENGLISH) for _ in range(rng.randint(*words))) for _ in range(n))
    return [f"{text.capitalize()} {i}{mark}" for i, text in enumerate(texts)]


def _rows(path: Path, texts: list[str]) -> dict[str, str]:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return {"filler": "dataset", "filler_path": str(path)}


def _file(path: Path, text: str, **options: str) -> dict[str, str]:
    path.write_text(text, encoding="utf-8")
    return {"filler": "folder", "filler_path": str(path), **options}


def _five_of_twelve_words(folder: Path) -> dict[str, str]:
    written = english((12, 12), 2500)
    return _rows(folder / "even.jsonl", [" ".join(written[i : i + 5]) for i in range(0, len(written), 5)])


def _dialogue(folder: Path) -> dict[str, str]:
    said = english((2, 9), 3500, '."')
    return _file(folder / "dialogue.txt", "\n\n".join(f'"{text}' for text in said))


def _verse(folder: Path) -> dict[str, str]:
    lines = [text.rstrip(".") for text in english((4, 8), 3500, "")]
    stanzas = ["\n".join(lines[i : i + 4]) for i in range(0, len(lines), 4)]
    return _file(folder / "verse.txt", "\n\n".join(stanzas), filler_sentences="lines")


def _code(folder: Path) -> dict[str, str]:
    (folder / "source").mkdir()
    for i, (name, verb) in enumerate(product(ENGLISH, ENGLISH)):
        body = f"def {name}_{verb}_{i}(left):\n    if left > {i * 7}:\n        return left\n\n    return {i} * left\n"
        (folder / "source" / f"{i}.py").write_text(body)
    return {"filler": "folder", "filler_path": str(folder / "source")}


def _subtitles(folder: Path) -> dict[str, str]:
    said = english((1, 6), 4500, "!")
    return _file(
        folder / "subtitles.txt", "\n\n".join(f"{i}\n00:01:02,{i:03} --> 00:01:04\n{t}" for i, t in enumerate(said))
    )


SHAPES: dict[str, Callable[[Path], dict[str, str]]] = {
    "one sentence a row": lambda folder: _rows(folder / "rows.jsonl", english((6, 30), 1500)),
    "one sentence a paragraph": lambda folder: _file(folder / "a.txt", "\n\n".join(english((6, 30), 1500))),
    "short sentences, one a row": lambda folder: _rows(folder / "short.jsonl", english((2, 5), 4500)),
    "long sentences, one a row": lambda folder: _rows(folder / "long.jsonl", english((60, 110), 400)),
    "five sentences of 12 words a row": _five_of_twelve_words,
    "dialogue": _dialogue,
    "verse without marks": _verse,
    "code": _code,
    "subtitles": _subtitles,
    "one endless line": lambda folder: _file(folder / "line.txt", " ".join(english((6, 30), 1500))),
    "hard wraps": lambda folder: _file(folder / "w.txt", " ".join(english((6, 30), 1500)).replace(" the ", "\nthe ")),
    **{name: lambda folder, name=name: _file(folder / f"{name}.txt", written_in(name)) for name in PARTS},
    "chinese rows": lambda folder: _rows(folder / "zh.jsonl", sentences_of("chinese", 1500)),
    "chinese with some English": lambda folder: _file(
        folder / "mixed.txt", written_in("chinese") + "\n\n" + " ".join(english((6, 30), 10))
    ),
}
