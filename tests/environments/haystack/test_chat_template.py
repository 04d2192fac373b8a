"""Chat templates: their own variables, and the proof that a haystack arrives whole and once."""

import copy
from typing import Any

import pytest

from environments.haystack.sample import Haystacks, Options, rebuild
from environments.haystack.tokens import Tokens
from longthread.errors import ConfigError

SMALL = Options(pool_tokens=20_000)
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
    assert quiet.variant(Options(pool_tokens=20_000, values=2)).tokens.template == {"enable_thinking": False}


def test_variables_enter_the_fingerprint_and_none_leave_it(gpt2):
    plain, empty, quiet = (Tokens(gpt2, t).fingerprint for t in (None, {}, {"enable_thinking": False}))
    assert plain == empty != quiet


def test_a_recipe_is_built_again_with_its_variables_alone(gpt2):
    tokenizer = with_template(gpt2, THINKING)
    quiet = {"enable_thinking": False}
    sample = Haystacks(tokenizer, SMALL, template=quiet).sample(3, "train", "single", 600)
    assert rebuild(sample.recipe, tokenizer, quiet) == sample
    with pytest.raises(ConfigError, match="the recipe is for tokenizer"):
        rebuild(sample.recipe, tokenizer)


@pytest.mark.parametrize("name", ["tokenize", "messages", "add_generation_prompt", "continue_final_message"])
def test_variables_that_are_not_the_templates_own_are_refused(gpt2, name):
    with pytest.raises(ConfigError, match=f"must not name {name}"):
        Tokens(gpt2, {name: True})
