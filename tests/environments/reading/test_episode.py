"""Episodes: a scripted reader and adversaries in the place of a model, and the tokens that a trainer is given of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from statistics import mean
from typing import Any

import pytest

from benchmarks.reading_policies import ADVERSARIES, Policy, answer_and_read, asking, dump_hits, scripted
from environments.haystack.sample import Haystacks, Options, Sample
from environments.haystack.tokens import Tokens
from environments.inference.contracts import Completion, CompletionRequest
from environments.inference.errors import CompletionError, RequestRefused, RequestRejected
from environments.reading.episode import Episodes, Limits, Sampling
from environments.reading.tools import TOOLS
from environments.reading.turns import Turns
from environments.rollouts.rollout import NOT_TRAINED
from environments.rollouts.scoring import score
from environments.rollouts.transcript import Transcript
from longthread.errors import ConfigError
from tests.environments.tiny_model import EOS, tiny_tokenizer
from trainer_configs.atropos_rl.toy_model import TEMPLATE

TOKENS = Tokens(tiny_tokenizer())
LENGTH = 9_000  # bytes, with the tiny tokenizer


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Sample]]:
    """A sample of each task, by format of the answer."""
    drawn: dict[str, list[Sample]] = {}
    for form in ("tags", "plain"):
        haystacks = Haystacks(tiny_tokenizer(), Options(pool_tokens=40_000, answer_format=form))
        tasks = ("single", "multi_key", "chain", "absent")
        drawn[form] = [haystacks.sample(0, "train", task, LENGTH) for task in tasks]
    return drawn


def episodes(ask: Any, form: str = "plain", turns: int = 6, tokens: int = 2000, template: str = TEMPLATE) -> Episodes:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return Episodes(form, Limits(turns, tokens), Tokens(tokenizer), ask, lambda completion: completion.text)


def play(sample: Sample, policy: Policy, form: str = "plain", **limits: int) -> Transcript:
    made = episodes(asking(policy, form == "tools"), form, **limits)
    return asyncio.run(made.run(sample, Sampling(64, 1.0), 1))[2][0]


def exact(policy: Policy, logprob: float = -0.5) -> Callable[[CompletionRequest, int], Any]:
    """A server of tokens that plays the policy: it reads the conversation out of the tokens alone."""

    async def ask(request: CompletionRequest, n: int) -> list[Completion]:
        text = policy(messages_of(request.prompt))
        tokens = [*TOKENS.encode(text), EOS]
        return [Completion(text, tokens, [logprob] * len(tokens), "stop")] * n

    return ask


def messages_of(prompt: list[int]) -> list[dict[str, str]]:
    turns = [turn.removesuffix("\n") for turn in TOKENS.decode(prompt).split("<|im_start|>")[1:-1]]
    pairs = (turn.removesuffix("<|im_end|>").split("\n", 1) for turn in turns)
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize("form", ["plain", "tools"])
def test_the_scripted_reader_answers_by_search_and_reading(samples: Any, form: str) -> None:
    for sample in samples["tags"]:
        transcript = play(sample, scripted, form)
        counts = transcript.reading
        assert score(transcript.answer, sample.answer).score == 1.0, sample.question
        assert counts.ended == "answered" and 0 < counts.share_read < 0.3 and counts.tool_errors == 0
        assert counts.turns == 1 + sum(message["role"] == "assistant" for message in transcript.messages[1:-1])


def test_sequences_are_what_was_sampled_and_what_the_template_renders(samples: Any) -> None:
    """Token for token: the replies' own tokens with their log-probabilities, all else masked, nothing made again."""
    for sample in samples["tags"][1:3]:
        prompt, [completion], [made] = asyncio.run(episodes(exact(scripted)).run(sample, Sampling(64, 1.0), 1))
        assert made.logprobs is not None and len(made.tokens) == len(made.mask) == len(made.logprobs)
        written = [token for token, mask in zip(made.tokens, made.mask, strict=True) if mask != NOT_TRAINED]
        said = [m["content"] for m in made.messages if m["role"] == "assistant"]
        assert written == completion.tokens == [t for text in said for t in [*TOKENS.encode(text), EOS]]
        assert all((p == 1.0) == (m == NOT_TRAINED) for p, m in zip(made.logprobs, made.mask, strict=True))
        assert completion.logprobs == [-0.5] * len(written)
        rendered = TOKENS.chat.render(made.messages, add_generation_prompt=False)
        assert TOKENS.decode(prompt + made.tokens) + "\n" == rendered


def test_a_chat_server_is_sent_the_messages_and_their_exact_length(samples: Any) -> None:
    requests: list[CompletionRequest] = []
    play_scripted = asking(scripted)

    async def ask(request: CompletionRequest, n: int) -> list[Completion]:
        requests.append(CompletionRequest([dict(m) for m in request.messages], list(request.prompt), 64, 1.0))
        return await play_scripted(request, n)

    asyncio.run(episodes(ask).run(samples["tags"][2], Sampling(64, 1.0), 1))
    assert len(requests) >= 3
    for request in requests:
        assert TOKENS.encode(TOKENS.render(request.messages)) == request.prompt
        assert [m["role"] for m in request.messages] == (["user", "assistant"] * len(requests))[: len(request.messages)]


def test_requests_with_tools_have_the_schema_and_answers_to_each_call(samples: Any) -> None:
    requests: list[CompletionRequest] = []
    play_scripted = asking(scripted, with_tools=True)

    async def ask(request: CompletionRequest, n: int) -> list[Completion]:
        requests.append(request)
        return await play_scripted(request, n)

    made = asyncio.run(episodes(ask, "tools").run(samples["tags"][2], Sampling(64, 1.0, own={"top_k": 5}), 1))[2][0]
    assert all(request.own == {"top_k": 5, "tools": TOOLS} and request.prompt == [] for request in requests)
    for before, message in zip(made.messages, made.messages[1:], strict=False):
        if message["role"] == "tool" and before["role"] == "assistant":
            assert message["tool_call_id"] == before["tool_calls"][0]["id"]
    assert made.messages[-1] == {"role": "assistant", "content": made.answer}


def test_episodes_of_a_group_share_one_first_request_and_then_go_their_own_ways(samples: Any) -> None:
    asked: list[int] = []

    async def ask(request: CompletionRequest, n: int) -> list[Completion]:
        asked.append(n)
        texts = (
            ["<read>1</read>", "<answer>7</answer>", "<search>the</search>"] if n == 3 else ["<answer>none</answer>"]
        )
        return [Completion(text, [1], [-0.5], "stop") for text in texts]

    _, completions, made = asyncio.run(episodes(ask).run(samples["tags"][0], Sampling(64, 1.0), 3))
    assert asked == [3, 1, 1]
    assert [t.answer for t in made] == ["<answer>none</answer>", "<answer>7</answer>", "<answer>none</answer>"]
    assert [(t.reading.turns, t.reading.searches, t.reading.reads) for t in made] == [(2, 0, 1), (1, 0, 0), (2, 1, 0)]
    assert [c.tokens for c in completions] == [[1, 1], [1], [1, 1]]


# ---- how episodes end ----


def test_the_last_turn_is_announced_and_a_call_there_is_no_answer(samples: Any) -> None:
    made = play(samples["tags"][0], lambda _: "<search>the</search> <answer>7</answer>", turns=3)
    assert (made.reading.ended, made.reading.turns, made.reading.searches, made.answer) == ("turns", 3, 2, "")
    results = [m["content"] for m in made.messages if m["role"] == "user"][1:]
    assert ["last look: answer now" in result for result in results] == [False, True]


def test_an_episode_that_outgrows_the_window_ends_with_what_it_has(samples: Any) -> None:
    sample = samples["tags"][0]
    policy = exact(lambda _: "<read>1-2</read>")
    prompt, [completion], [free] = asyncio.run(episodes(policy).run(sample, Sampling(64, 1.0), 1))
    window = len(prompt) + len(free.tokens) // 2
    prompt, [completion], [made] = asyncio.run(episodes(policy).run(sample, Sampling(64, 1.0), 1, window))
    assert made.reading.ended == "window" and made.answer == "" and completion.missing == ""
    assert len(prompt) + len(made.tokens) <= window and made.tokens == free.tokens[: len(made.tokens)]
    assert made.mask[-1] != NOT_TRAINED  # it ends with a reply, not with what nobody answers
    assert made.messages == free.messages[: len(made.messages)] and made.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("text", "ended", "turns"),
    [
        ("<search>the</search> and so on and", "answered", 2),
        ("<search>the", "cut", 1),
        ("<answer>7", "cut", 1),
    ],
)  # fmt: skip
def test_a_reply_that_was_cut(samples: Any, text: str, ended: str, turns: int) -> None:
    """A whole call in it is carried out; the end of the reply, which the model did not write, is masked."""

    async def ask(request: CompletionRequest, n: int) -> list[Completion]:
        first = len(messages_of(request.prompt)) == 1
        said = text if first else "<answer>7</answer>"
        tokens = TOKENS.encode(said) + ([] if first else [EOS])
        return [Completion(said, tokens, [-1.0] * len(tokens), "length" if first else "stop")]

    prompt, _, [made] = asyncio.run(episodes(ask).run(samples["tags"][0], Sampling(64, 1.0), 1))
    assert (made.reading.ended, made.reading.turns) == (ended, turns)
    if turns == 2:
        rendered = TOKENS.chat.render(made.messages, add_generation_prompt=False)
        assert TOKENS.decode(prompt + made.tokens) + "\n" == rendered
        assert made.tokens[len(TOKENS.encode(text))] == EOS and made.mask[len(TOKENS.encode(text))] == NOT_TRAINED


async def test_one_request_that_fails_fails_the_group(samples: Any) -> None:
    async def ask(request: CompletionRequest, n: int) -> list[Completion]:
        if n == 1:
            raise CompletionError("gone")
        return [Completion("<search>the</search>", [1], [-0.5], "stop")] * n

    with pytest.raises(CompletionError, match="gone"):
        await episodes(ask).run(samples["tags"][0], Sampling(64, 1.0), 3)


@pytest.mark.parametrize(
    ("form", "error", "rejected"),
    [
        (
            "tools",
            RequestRefused("m answered HTTP 400", '"auto" tool choice requires --enable-auto-tool-choice', 400),
            True,
        ),
        ("tools", CompletionError("m answered HTTP 500: tools param requires --jinja flag"), True),
        ("tools", RequestRefused("m answered HTTP 400", "tools: the prompt is too long", 400), False),
        ("tools", CompletionError("m answered HTTP 500: out of memory"), False),
        ("plain", RequestRefused("m answered HTTP 400", "no tools here", 400), False),
    ],
)
def test_a_server_without_tools_names_the_plain_form(samples: Any, form: str, error: Any, rejected: bool) -> None:
    async def ask(request: CompletionRequest, n: int) -> list[Completion]:
        raise error

    with pytest.raises(CompletionError) as caught:
        asyncio.run(episodes(ask, form).run(samples["tags"][0], Sampling(64, 1.0), 1))
    assert isinstance(caught.value, RequestRejected) == rejected
    assert ("use plain (reading)" in str(caught.value)) == rejected


# ---- what cannot be gamed ----


@pytest.mark.parametrize("form", ["tags", "plain"])
def test_no_adversary_earns_more_than_honest_reading(samples: Any, form: str) -> None:
    def earned(policy: Policy) -> float:
        return mean(score(play(s, policy).answer, s.answer, form).score for s in samples[form])

    honest = earned(scripted)
    assert honest == 1.0
    for adversary in ADVERSARIES:
        assert earned(adversary) < 0.5 * honest, adversary.__name__


def test_in_tags_what_a_tool_returned_is_no_answer(samples: Any) -> None:
    for sample in samples["tags"]:
        assert score(play(sample, dump_hits).answer, sample.answer).score == 0.0


def test_without_tags_a_dump_is_not_searched_for_a_value(samples: Any) -> None:
    sample = samples["plain"][0]

    def dump(messages: Any) -> str:
        return (
            "<read>1-9</read>" if len(messages) == 1 else f"{messages[-1]['content']} {'; '.join(sample.answer.values)}"
        )

    assert play(sample, dump).answer == ""
    assert play(sample, scripted).answer == "; ".join(sample.answer.values)


def test_an_answer_beside_a_call_is_not_paid(samples: Any) -> None:
    made = play(samples["tags"][0], answer_and_read)
    assert made.reading.turns > 1 and score(made.answer, samples["tags"][0].answer).score == 1.0


def test_grounding_counts_what_was_cited(samples: Any) -> None:
    haystacks = Haystacks(tiny_tokenizer(), Options(pool_tokens=40_000, numbered=True))
    for task in ("single", "chain"):
        sample = haystacks.sample(0, "train", task, LENGTH)
        made = play(sample, scripted)
        assert score(made.answer, sample.answer, evidence=sample.evidence).score == 1.0
        assert (
            score(made.answer.replace("<evidence>", "<evidence>99, "), sample.answer, evidence=sample.evidence).score
            < 1
        )


# ---- chat templates ----

DROPS_THINKING = TEMPLATE.replace("<|im_start|>assistant\n' }}", "<|im_start|>assistant\n<think>\n\n</think>\n\n' }}")
TRIMS = TEMPLATE.replace("m['content']", "m['content'] | trim")
INSTRUCT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
HIDES_OLD = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] == 'user' %}")
MARKS_LAST = TEMPLATE.replace("'<|im_end|>\n' }}", "('' if loop.last else ' ') + '<|im_end|>\n' }}")


@pytest.mark.parametrize(
    ("template", "appends"),
    [(TEMPLATE, True), (TRIMS, True), (INSTRUCT, True), (DROPS_THINKING, False), (MARKS_LAST, False)],
    ids=["chatml", "trims", "instruct", "drops_thinking", "marks_last"],
)
def test_the_prefix_property_is_proved_or_refused(template: str, appends: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    turns = Turns(Tokens(tokenizer))
    assert turns.appends == appends
    if not appends:
        with pytest.raises(
            ConfigError, match="changes earlier turns.*--openai.server_type vllm.*reading, tokenizer_name"
        ):
            turns.check_appends()


def test_a_template_without_earlier_turns_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = HIDES_OLD
    with pytest.raises(ConfigError, match="does not render earlier turns as they are"):
        Turns(Tokens(tokenizer))


def test_serving_needs_tokens() -> None:
    with pytest.raises(ConfigError, match="with tools only the server knows them: use reading plain, or process"):
        episodes(None, "tools").check_serving(token_exact=False)
    with pytest.raises(ConfigError, match="changes earlier turns"):
        episodes(None, template=DROPS_THINKING).check_serving(token_exact=False)
    episodes(None, template=DROPS_THINKING).check_serving(token_exact=True)
