"""What reading a hostile reply costs: seconds of CPU for one score, the slowest of several kinds of value.

    python -m benchmarks.hostile_replies

Every reply is built to make a search quadratic. A megabyte must cost well below a second; a quadratic scan takes minutes.
"""

import time

from environments.haystack.tasks.task import Answer
from environments.rollouts.scoring import score

MEGA = 1_000_000
A = "<answer>{}</answer>"
HOSTILE = {
    "blanks behind a bracket": "<" + " " * MEGA,
    "blanks behind a slash": "</" + " " * MEGA,
    "open tags": "<answer " * (MEGA // 8),
    "answer tags": "<answer>" * (MEGA // 8),
    "think tags": "<think>" * (MEGA // 7),
    "closed think tags": "</think>" * (MEGA // 8),
    "brackets": "<" * MEGA,
    "a dump": A.format("1111111111; " * (MEGA // 12)),
    "a long answer": A.format("1" * MEGA),
    "commas": A.format("1,111," * 16_000),
    "capitals": "Aa " * (MEGA // 3),
    "hyphens": "a-" * (MEGA // 2),
    "hyphens within reach": "a-" * 49_000,
    "names within reach": "Aa " * 33_000,
    "numbers within reach": "1,111,111 " * 9_900,
    "dates within reach": "1 March 1000 " * 7_500,
    "combining": "e" + "\u0301" * 90_000,
    "ligatures": A.format("\ufdfa" * 90_000),  # each is 18 characters after NFKC
    "evidence": "<evidence>" + "1 " * 50_000 + "</evidence>" + A.format("1"),
    "bare thinking": "analysis" + "assistantfinal" * (MEGA // 14),
    "channels": "<|channel|>" * (MEGA // 11),
    "final channels": "<|channel|>final <|message|>" * (MEGA // 28),
    "namespaces": "<" + "a" * 16 + ":" * MEGA,
    "kinds of thinking in turn": "<think><thought>[THINK]◁think▷</think></thought>" * (MEGA // 48),
    "long dashes": A.format("a—" * 49_000),
    "long dashes in plain": "a—" * 49_000,
    "bullets": A.format("- " * 49_000),
    "articles": A.format("the " * 24_000),
    "numbering": A.format("1. " * 33_000),
    "dollars": A.format("$" * 99_000),
    "boxes": A.format("\\boxed" * 16_000 + "{1}"),
    "groups": A.format("1 234" + " 567" * 24_000 + "8"),
    "comma groups": "1,234" + ",567" * 24_000 + "a",
    "dotted groups": "1.234" + ".567" * 24_000 + "8",
    "ands": A.format("and " * 24_000),
    "days": "Saturday, 14 March 1874, " * 3_900,
    "times": "09:32:17 " * 11_000,
    "phrases": "aa bb " * 16_000,
    "capital phrases": "AA BB cc " * 11_000,
    "denials": "it was not " * 9_000,
    "invisible": A.format("\u200b" * 99_000),
    "digits of other scripts": A.format("\u0661" * 99_000),
}

ANSWERS = (
    Answer("one", ("1234567890",), "numbers"),
    Answer("one", ("Kaimol Betraird Zoven",), "names"),
    Answer("one", ("acorn-bay-cake-dune",), "words"),
    Answer("one", ("14 March 1874 09:32:17",), "dates"),
    Answer("one", ("eat a sandwich, and sit in Dolores Park",), "text"),
    Answer("set", ("Kai Zoven", "Bo Kaimol"), "people"),
)


def cost(reply: str) -> float:
    """Seconds of CPU that the slowest of all kinds and formats takes."""
    seconds = []
    for answer in ANSWERS:
        for answer_format in ("tags", "plain"):
            began = time.process_time()
            score(reply, answer, answer_format, {1})
            seconds.append(time.process_time() - began)
    return max(seconds)


def main() -> None:
    """Print a row for each reply, the slowest first."""
    costs = {name: cost(reply) for name, reply in HOSTILE.items()}
    print("| reply | characters | seconds |\n|---|---:|---:|")
    for name, seconds in sorted(costs.items(), key=lambda pair: -pair[1]):
        print(f"| {name} | {len(HOSTILE[name]):,} | {seconds:.3f} |")


if __name__ == "__main__":
    main()
