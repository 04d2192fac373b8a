"""One table for what servers write as finish_reason."""

import pytest

from environments.inference.finish_reason import Ending, ending


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "stop eos EOS eos_token end_turn stop_sequence STOP FinishReason.STOP FINISH_REASON_STOP tool_calls",
            "finished",
        ),
        ("length max_tokens MAX_TOKENS max-tokens model_length max_output_tokens FinishReason.MAX_TOKENS", "cut"),
        ("abort error cancelled server_error insufficient_system_resource", "broken off"),
        ("content_filter SAFETY guardrail_intervened RECITATION refusal", "filtered"),
    ],
)
def test_every_spelling_has_one_meaning(words: str, expected: str) -> None:
    """vespa-engine/vespa PR 33327, aws-samples/bedrock-access-gateway 11, UKGovernmentBEIS/inspect_ai 5143."""
    assert {ending(word).value for word in words.split()} == {expected}


@pytest.mark.parametrize("word", [None, "", "whatever"])
def test_what_is_not_in_the_table_is_unknown(word: str | None) -> None:
    assert ending(word) is Ending.UNKNOWN
