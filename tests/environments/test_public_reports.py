"""Faults that users of other projects reported, tried on ours: each test names the repository and the number.

Reports whose fault belongs to one room have their test there; these concern several rooms at once.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tokenizers import processors

from environments.haystack.sample import Haystacks, Options
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.task import Answer
from environments.reports.metrics import effective_length
from environments.rollouts.scoring import score
from tests.environments.loopback import ChatServer, choice, command, rows_of, run_cli

pytestmark = pytest.mark.usefixtures("clean")
NUMBER = Answer("one", ("1234567890",), "numbers")


def with_bos(tokenizer: Any) -> Any:
    """A tokenizer whose template writes a beginning-of-sequence token, and whose post-processor would add another."""
    copied = copy.deepcopy(tokenizer)
    copied.bos_token = "<|endoftext|>"
    copied.chat_template = "{{ bos_token }}" + copied.chat_template
    copied.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", copied.bos_token_id)]
    )
    return copied


def test_one_beginning_of_sequence_and_none_in_a_needle(gpt2: Any) -> None:
    """vllm-project/vllm 27486, LiveCodeBench PR 146: two BOS; gkamradt/needle-in-a-haystack 57, Zefan-Cai/KVCache-Factory 62:
    one in the needle."""
    tokenizer = with_bos(gpt2)
    haystacks = Haystacks(tokenizer, Options(pool_tokens=20_000))
    sample = haystacks.sample(0, "train", "multi_value", 700)
    ids = haystacks.tokens.encode_prompt(haystacks.tokens.render(sample.messages), sample.length)
    assert len(ids) == 700 and ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert not any(tokenizer.bos_token in needle.text for needle in sample.needles)
    assert tokenizer.bos_token not in sample.messages[0]["content"]


@pytest.mark.parametrize("reply", ["{}\nThat is all.", "First I looked.\n\n{}", "{} ", "\n\n{}\n\n\nGood luck!"])
def test_the_answer_may_stand_on_any_line(reply: str) -> None:
    """EleutherAI/lm-evaluation-harness PR 3377: an answer that was not on the last line earned 0."""
    assert score(reply.format("<answer>1234567890</answer>"), NUMBER).score == 1


@pytest.mark.parametrize("status", [504, 500, 400])
def test_no_text_of_an_error_becomes_a_row(server: ChatServer, tokenizer: Path, tmp_path: Path, status: int) -> None:
    """PrimeIntellect-ai/verifiers 103: "[ERROR] max_tokens_reached" was trained on."""

    def reply(body: dict[str, Any], number: int) -> Any:
        if number == 1:
            return web.json_response({"error": {"message": "[ERROR] max_tokens_reached"}}, status=status)
        return [choice("fine")] * body.get("n", 1)

    server.reply = reply
    out = tmp_path / "rows.jsonl"
    run_cli(command("process", tokenizer, server.url, env_data_path_to_save_groups=out, env_max_num_workers=1))
    assert {text for row in rows_of(out) for text in row["completions"]} == {"fine"}


def test_half_of_the_facts_is_half_an_answer() -> None:
    """Neroued/ninfer 171: only the whole counted."""
    facts = Answer("set", ("1234567890", "2345678901", "3456789012", "4567890123"), "numbers")
    half = score("<answer>1234567890; 2345678901</answer>", facts)
    assert half.found == 2 and 0.5 < half.score < 1


def test_a_harder_level_is_never_easier_in_what_it_asks() -> None:
    """NVIDIA-NeMo/Skills 1143: a harder level scored higher. Each rung of a ladder asks for more in exactly one respect."""
    from environments.curriculum.ladder import KNOBS
    from environments.curriculum.policy import Curriculum
    from environments.curriculum.task_ladders import ladders
    from environments.needle_env import NeedleEnv

    config = NeedleEnv.config_init()[0]
    made = ladders(config, ["single", "multi_key"], [1024, 4096], (2, 3))
    assert Curriculum(made)
    for ladder in made.values():
        for low, high in zip(ladder.rungs, ladder.rungs[1:], strict=False):
            assert sum(getattr(low, knob) != getattr(high, knob) for knob in KNOBS) == 1


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"custom"}))
def test_the_right_values_earn_everything(haystacks_of: Any, task: str) -> None:
    """NVIDIA/RULER 3, tenstorrent/tt-inference-server 706: every score was 0, whatever the model said."""
    sample = haystacks_of("gpt2").sample(0, "train", task, 4000)
    assert score(f"<answer>{'; '.join(sample.answer.values) or 'none'}</answer>", sample.answer).score == 1


def test_samples_are_made_without_a_network(gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA/RULER 69: making the data hung while it downloaded a sentence splitter."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert Haystacks(gpt2, Options(pool_tokens=20_000)).sample(5, "eval", "chain", 4000).length == 4000


def test_each_tokenizer_counts_for_itself(haystacks_of: Any) -> None:
    """gkamradt/needle-in-a-haystack 25, 0xBakeer/inference-atlas PR 27: one tokenizer, or characters over 4, for all."""
    texts = {}
    for name in ("gpt2", "mistral"):
        haystacks = haystacks_of(name)
        sample = haystacks.sample(0, "train", "single", 2048)
        ids = haystacks.tokens.encode(haystacks.tokens.render(sample.messages))
        assert len(ids) == 2048
        texts[name] = sample.messages[0]["content"]
    assert texts["gpt2"] != texts["mistral"]


@pytest.mark.parametrize("reply", ["It can seat 1,234,567,890 people.", "1,234,567,890 seated", "1 234 567 890"])
def test_a_number_is_read_in_any_wording(reply: str) -> None:
    """NVIDIA/RULER 100: "can seat 3,677 people" against "3,677 seated"."""
    assert score(reply, NUMBER, "plain").score == 1
    assert score(reply.replace("1", "2", 1), NUMBER, "plain").score == 0


def test_an_explanation_costs_nothing() -> None:
    """gkamradt/needle-in-a-haystack 39: a right answer with an explanation was scored 1 of 10."""
    reply = "The text says so near its end. <answer>1234567890</answer> I am sure of it, because nothing else is named."
    assert (
        score(reply, NUMBER).score == score("The number is 1234567890, as the text says.", NUMBER, "plain").score == 1
    )


def test_a_cliff_shows_in_the_effective_length() -> None:
    """state-spaces/mamba 1015: beyond 61k tokens every answer was wrong, and nothing showed it."""
    lengths = (4096, 32_768, 61_440, 65_536, 131_072)
    records = [{"length": n, "score": float(n < 62_000), "present": True} for n in lengths for _ in range(5)]
    reach = effective_length(records)
    assert reach and reach.length == 61_440
