"""What servers write as `finish_reason`, in one table: scoring, export and reports ask here how a completion ended."""

from enum import Enum


class Ending(Enum):
    """How a completion ended."""

    FINISHED = "finished"  # the model ended it, or a stop string did
    CUT = "cut"  # at the limit of tokens
    BROKEN_OFF = "broken off"  # by the server: not the model's reply
    FILTERED = "filtered"  # by the provider's content filter
    UNKNOWN = "unknown"


# vLLM, SGLang, llama.cpp, TGI, Together, Anthropic, Bedrock, Gemini, Mistral, Cohere, Azure, and gateways before them.
SPELLINGS = {
    Ending.FINISHED: "stop eos eos_token end end_turn end_of_turn end_of_text stop_sequence stop_str stop_string "
    "stop_token stop_criteria_met complete completed done finished natural tool_calls tool_call tool_use function_call",
    Ending.CUT: "length max_tokens max_length max_new_tokens max_output_tokens max_completion_tokens model_length "
    "model_context_window_exceeded context_length token_limit incomplete",
    Ending.BROKEN_OFF: "abort aborted error error_toxic error_limit cancel cancelled canceled timeout failed failure "
    "server_error unavailable insufficient_system_resource interrupted network_error load other malformed_function_call "
    "malformed_response",
    Ending.FILTERED: "content_filter content_filtered safety refusal recitation sensitive guardrail_intervened blocklist "
    "prohibited_content spii language",
}
_ENDINGS = {word: ending for ending, words in SPELLINGS.items() for word in words.split()}


def ending(finish_reason: str | None) -> Ending:
    """Return how a completion with this finish reason ended, whatever the server's spelling; UNKNOWN for None."""
    word = (finish_reason or "").strip().casefold().rpartition(".")[2]
    word = word.replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
    return _ENDINGS.get(word, Ending.UNKNOWN)
