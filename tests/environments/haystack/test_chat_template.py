"""Chat templates: their own variables, and the proof that a haystack arrives whole and once."""

import copy
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from environments.haystack.light_tokenizer import LightTokenizer
from environments.haystack.sample import Haystacks, Options, rebuild
from environments.haystack.tokens import Tokens
from longthread.errors import ConfigError
from tests.conftest import build_tokenizer

TEMPLATES = Path(__file__).parents[2] / "data" / "chat_templates"

SMALL = Options(pool_tokens=8192)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)


def with_template(tokenizer: Any, template: Any) -> Any:
    """A copy of the tokenizer with another chat template."""
    copied = copy.copy(tokenizer)
    copied.chat_template = template
    return copied


def test_variables_of_the_template_reach_it_and_count(gpt2):
    """jundot/omlx 358: template variables were not passed, so that thinking could not be turned off."""
    tokenizer = with_template(gpt2, THINKING)
    plain, quiet = (Haystacks(tokenizer, SMALL, template=t) for t in (None, {"enable_thinking": False}))
    for haystacks, end in ((plain, "assistant\n"), (quiet, "</think>\n\n")):
        sample = haystacks.sample(0, "train", "single", 600)
        text = haystacks.tokens.render(sample.messages)
        assert text.endswith(end)
        assert len(haystacks.tokens.encode(text)) == sample.length == 600
    assert quiet.variant(replace(SMALL, values=2)).tokens.chat.variables == {"enable_thinking": False}


def test_variables_enter_the_fingerprint_and_none_leave_it(gpt2):
    plain, empty, quiet = (Tokens(gpt2, t).fingerprint for t in (None, {}, {"enable_thinking": False}))
    assert plain == empty != quiet


def test_a_recipe_is_built_again_with_its_variables_alone(gpt2):
    tokenizer = with_template(gpt2, THINKING)
    quiet = {"enable_thinking": False}
    sample = Haystacks(tokenizer, SMALL, template=quiet).sample(3, "train", "single", 600)
    assert sample.recipe["template"] == quiet and rebuild(sample.recipe, tokenizer) == sample
    with pytest.raises(ConfigError, match="the recipe is for tokenizer"):
        rebuild({**sample.recipe, "template": {}}, tokenizer)


@pytest.mark.parametrize("name", ["tokenize", "messages", "add_generation_prompt", "continue_final_message"])
def test_variables_that_are_not_the_templates_own_are_refused(gpt2, name):
    with pytest.raises(ConfigError, match=f"must not name {name}"):
        Tokens(gpt2, {name: True})


# ---- templates of today's families, and others ------------------------------------------------------------------

FAMILIES = sorted(TEMPLATES.glob("*.jinja"))
OPEN, END, ASSISTANT = "<|im_start|>{{ m['role'] }}\n", "<|im_end|>\n", "<|im_start|>assistant\n"


@cache
def family(name: str, template: Path) -> Haystacks:
    tokenizer = copy.deepcopy(build_tokenizer(name))
    tokenizer.bos_token = tokenizer.bos_token or tokenizer.eos_token
    tokenizer.chat_template = template.read_text()
    return Haystacks(tokenizer, SMALL)


def around(content: str) -> str:
    """A ChatML template that puts each message's content so."""
    return "{% for m in messages %}" + OPEN + content + END + "{% endfor %}" + ASSISTANT


@pytest.mark.parametrize(
    ("template", "name"),
    zip(FAMILIES, cycle(["mistral", "cl100k-like"]), strict=False),
    ids=lambda value: getattr(value, "stem", value),
)
def test_a_family_gets_exact_prompts_with_whole_needles(template: Path, name: str) -> None:
    haystacks = family(name, template)
    tokens = haystacks.tokens
    for seed, length in enumerate((700, 1024)):
        sample = haystacks.sample(seed, "train", "multi_value", length, [0.0, 0.5, 1.0])
        text = tokens.render(sample.messages)
        ids = tokens.encode(text)
        assert len(ids) == length and tokens.encode_prompt(text, length) == ids
        assert text.count(sample.messages[0]["content"]) == 1
        for needle in sample.needles:
            assert tokens.decode(ids[needle.token_start : needle.token_end]).strip() == needle.text


@pytest.mark.parametrize("template", [t for t in FAMILIES if t.stem.startswith("vision")], ids=lambda path: path.stem)
def test_a_template_of_parts_alone_gets_parts_and_samples_keep_strings(template: Path) -> None:
    """huggingface/trl PR 5868: templates of vision models index the parts of a message's content."""
    haystacks = family("mistral", template)
    assert haystacks.tokens.chat.parts
    sample = haystacks.sample(0, "train", "single", 1024)
    assert isinstance(sample.messages[0]["content"], str)
    assert sample.needles[0].text in haystacks.tokens.render(sample.messages)
    assert rebuild(sample.recipe, haystacks.tokens.tokenizer) == sample


@pytest.mark.parametrize(
    ("template", "fault"),
    {
        "collapsed": (around("{{ m['content'] | replace('\n\n', '\n') }}"), "changes the white space"),
        "wrapped": (around("{{ m['content'] | wordwrap(60) }}"), "changes the white space"),
        "joined": (around("{{ m['content'].split() | join(' ') }}"), "changes the white space"),
        "escaped": (around("{{ m['content'] | e }}"), "escapes the user's text"),
        "json": (around("{{ m['content'] | tojson }}"), "(changes|cuts) the user's text"),
        "stripped of tags": (around("{{ m['content'] | striptags }}"), "changes the user's text"),
        "lower": (around("{{ m['content'] | lower }}"), "changes the user's text"),
        "cut": (around("{{ m['content'][:1000] }}"), "cuts the user's text"),
        "cut late": (around("{{ m['content'][:1000000] }}"), "cuts the user's text"),
        "cut at a blank line": (around("{{ m['content'].split('\n\n')[0] }}"), "(cuts|changes) the user's text"),
        "left out": (around("..."), "leaves the user's text out"),
        "twice": (around("{{ m['content'] }}{{ m['content'] }}"), "repeats the user's text"),
        "another role": ("{% for m in messages if m.role == 'human' %}{{ m.content }}{% endfor %}", "leaves .* out"),
        "length in front": (around("{{ m['content'] | length }}\n{{ m['content'] }}"), "puts other text around"),
        "raises": ("{{ raise_exception('tools are needed') }}", r"fails \(TemplateError: tools are needed\)"),
        "wants a system turn": (
            "{% if messages[0].role != 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ messages }}",
            r"fails \(TemplateError: no system turn\)",
        ),
        "does not parse": ("{% for m in messages %}{{ m.content }}", r"fails \(TemplateSyntaxError: "),
        "undefined": ("{% for m in messages %}{{ m.content + suffix }}{% endfor %}", r"fails \(UndefinedError: "),
        "no such filter": ("{{ messages[0].content | nonsense }}", r"fails \(Template"),
        "divides by zero": ("{{ 1 / (messages | length - 1) }}", r"fails \(ZeroDivisionError: "),
        "unsafe": ("{{ messages.__class__.__mro__ }}", r"fails \(SecurityError: "),
    }.values(),
)
def test_a_template_that_does_not_render_the_text_as_it_is_is_refused(template: str, fault: str, gpt2: Any) -> None:
    """EleutherAI/lm-evaluation-harness 2109 (a template that raises), and what else a template may do to a text."""
    tokenizer = with_template(gpt2, template)
    with pytest.raises(ConfigError, match=f"the chat template of tokenizer .* {fault}.*: set tokenizer.chat") as error:
        Haystacks(tokenizer, SMALL)
    assert error.value.settings == ("tokenizer_name",) and "\n" not in str(error.value)


def test_of_several_named_templates_the_default_is_used_and_one_there_must_be(gpt2: Any) -> None:
    named = {"default": around("{{ m['content'] }}"), "tool_use": "{{ raise_exception('no') }}"}
    haystacks = Haystacks(with_template(gpt2, named), SMALL)
    sample = haystacks.sample(0, "train", "single", 700)
    assert len(haystacks.tokens.encode(haystacks.tokens.render(sample.messages))) == 700
    tokenizer = with_template(gpt2, {"rag": named["default"], "tool_use": named["default"]})
    with pytest.raises(ConfigError, match="has the chat templates rag, tool_use and none named default: set"):
        Haystacks(tokenizer, SMALL)


def test_a_template_that_fails_later_is_one_line_too(gpt2: Any) -> None:
    refuse = "{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    template = "{% for m in messages %}" + refuse + "{{ m.content }}{% endfor %}"
    tokens = Tokens(with_template(gpt2, template))
    with pytest.raises(ConfigError, match=r"fails \(TemplateError: no tools\)"):
        tokens.render([{"role": "tool", "content": "x"}])


def test_a_light_tokenizer_is_proved_alike(gpt2: Any) -> None:
    light = LightTokenizer(gpt2.backend_tokenizer, "light", around("{{ m['content'] | e }}"), {})
    with pytest.raises(ConfigError, match="tokenizer 'light' escapes the user's text"):
        Tokens(light).render([{"role": "user", "content": "x"}])
    light.chat_template = (TEMPLATES / "qwen3.jinja").read_text()
    quiet = Haystacks(light, SMALL, template={"enable_thinking": False})
    sample = quiet.sample(0, "train", "single", 700)
    text = quiet.tokens.render(sample.messages)
    assert text.endswith("</think>\n\n") and len(light.encode(text, add_special_tokens=False)) == 700
