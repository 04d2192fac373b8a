"""What a request may ask for, and the forms of an answer, without a model or a server."""

from __future__ import annotations

from typing import Any

import pytest

from environments.inference.embedded.protocol import (
    Formatter,
    Generation,
    RequestError,
    Sampling,
    chat_messages,
    native_logprobs,
    number,
    sampling_of,
    shortened,
    stop_strings,
)

EOS = 257


class Letters:
    """A tokenizer of one token a character, with an end token that decodes to nothing."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(i) for i in ids if i != EOS)


TOKENIZER: Any = Letters()


def generation(text: str, ended: bool = True) -> Generation:
    ids = [*map(ord, text), *([EOS] if ended else [])]
    return Generation(ids, [-0.5 * i for i in range(len(ids))], [], "stop" if ended else "length")


def test_an_empty_body_asks_for_the_defaults() -> None:
    assert sampling_of({}, 16, 0, TOKENIZER) == Sampling(max_tokens=16)
    assert sampling_of({"n": None, "seed": None, "stream": False, "tools": []}, 5, 0, TOKENIZER) == Sampling(
        max_tokens=5
    )


def test_every_parameter_arrives() -> None:
    body = {"n": 3, "max_tokens": 7, "temperature": 0, "top_p": 0.5, "top_k": 4, "seed": -1}
    assert sampling_of(body, 16, 2, TOKENIZER) == Sampling(3, 7, 0.0, 0.5, 4, -1, 2)
    assert sampling_of(body | {"max_completion_tokens": 9, "top_k": -1}, 16, 0, TOKENIZER) == Sampling(
        3, 9, 0.0, 0.5, 0, -1
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"n": 65}, "n is 65: give 1 or more, at most 64"),
        ({"seed": 2**63}, f"seed is {2**63}: give {-(2**63)} or more"),
        ({"temperature": "hot"}, 'temperature is "hot": give a number'),
        ({"top_k": 1.5}, "top_k is 1.5: give an integer"),
        ({"best_of": 2}, "best_of=2 is not supported by the embedded server: leave it out, or use vLLM"),
        ({"response_format": {"type": "json_object"}}, 'response_format={"type": "json_object"} is not supported'),
        ({"stop": 5}, "stop is 5: give a string or a list of strings, none of them empty"),
    ],
)
def test_what_cannot_be_served_is_one_line(body: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        sampling_of(body, 16, 0, TOKENIZER)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value) and caught.value.status == 400


def test_a_number_keeps_its_type() -> None:
    assert number({"temperature": 1}, "temperature") == 1.0 and isinstance(
        number({"temperature": 1}, "temperature"), float
    )
    assert number({}, "seed") is None and number({"logprobs": 0}, "logprobs") == 0


def test_stop_strings_are_found_across_tokens() -> None:
    assert stop_strings({"stop": "ab"}) == ["ab"] and stop_strings({}) == []
    stopped = sampling_of({"stop": ["ab", "never"]}, 16, 0, TOKENIZER).stopped
    assert stopped is not None
    assert stopped([*map(ord, "xxab")]) and not stopped([*map(ord, "xxa")])
    assert not stopped([*map(ord, "ab" + "x" * 20)])  # it was found when its last token came


def test_messages_with_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]
    assert chat_messages({"messages": [{"role": "user", "content": parts, "name": "x"}]}) == [
        {"role": "user", "content": "Where is it?"}
    ]
    for content in (None, 5, [{"type": "image_url"}]):
        with pytest.raises(RequestError, match=r"messages\[0\].content must be text"):
            chat_messages({"messages": [{"role": "user", "content": content}]})


def test_the_error_body_is_openais() -> None:
    assert RequestError("no", 404, "model_not_found").to_json() == {
        "error": {"message": "no", "type": "invalid_request_error", "param": None, "code": "model_not_found"}
    }
    assert RequestError("no", 500).to_json()["error"]["type"] == "server_error"


def test_text_ends_before_the_end_token_and_the_first_stop_string() -> None:
    formatter = Formatter(TOKENIZER, {EOS})
    assert formatter.text(generation("a needle"), []) == "a needle"
    assert formatter.text(generation("a needle", ended=False), ["dle", "need"]) == "a "
    assert formatter.text(generation("a needle"), ["hay"]) == "a needle"


def test_the_three_forms_of_log_probabilities() -> None:
    one = Generation([97, 98], [-0.1, -0.2], [[(97, -0.1), (99, -0.3)], [(98, -0.2), (100, -0.4)]], "length")
    formatter = Formatter(TOKENIZER, {EOS})
    first, second = formatter.chat_logprobs(one)["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("a", -0.1, [97])
    assert [entry["token"] for entry in second["top_logprobs"]] == ["b", "d"]
    assert formatter.legacy_logprobs(one) == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.1, -0.2],
        "top_logprobs": [{"a": -0.1, "c": -0.3}, {"b": -0.2, "d": -0.4}],
        "text_offset": [0, 1],
    }
    assert native_logprobs(one) == [[{97: -0.1}], [{98: -0.2}]]
    plain = generation("a")
    assert formatter.legacy_logprobs(plain)["top_logprobs"] is None
    assert all(entry["top_logprobs"] == [] for entry in formatter.chat_logprobs(plain)["content"])


def test_a_long_value_is_shown_shortened() -> None:
    assert shortened("x" * 50) == '"' + "x" * 39 + "…" and shortened([1]) == "[1]"
