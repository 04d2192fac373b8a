"""NeMo-Gym: rows for its datasets, and what its resources server `resources_servers/longthread` computes.

Nothing of NeMo-Gym is imported here, so that the server's sums can be tested anywhere.
"""

from collections.abc import Mapping

from environments.inference.finish_reason import Ending, ending
from environments.tasksets import core
from longthread.files import Json, JsonObject


def dataset_row(row: core.Row) -> JsonObject:
    """Return a line of a dataset: the request of OpenAI's Responses API, and the target beside it."""
    messages = [{"type": "message", **message} for message in row["messages"]]
    return {"responses_create_params": {"input": messages}, "target": core.target_of(row)}


def verify(response: Mapping[str, Json], target: Mapping[str, Json]) -> JsonObject:
    """Return `reward` and what it rests on, for a response of the Responses API as JSON. Raises `DataError`.

    `prompt_tokens_off`: by how many tokens the prompt that the server read differs from the exact one; None if unsaid.
    """
    messages = [item for item in response.get("output") or [] if _is_message(item)]
    thought = any(item.get("type") == "reasoning" for item in response.get("output") or [])
    why = (response.get("incomplete_details") or {}).get("reason")
    finished = thought or ending(why or response.get("status") or "stop") is Ending.FINISHED
    score = core.score_completion(messages, target, finished)
    read = (response.get("usage") or {}).get("input_tokens")
    return {
        "reward": score.score,
        "exact": float(score.correct),
        "abstained": float(score.abstained),
        "well_formed": float(score.well_formed),
        **({} if score.f2 is None else {"grounding_f2": score.f2}),
        "prompt_tokens_off": None if read is None else read - target["length"],
    }


def _is_message(item: Mapping[str, Json]) -> bool:
    """Tell a message of the assistant; agents leave `type` out, as the Responses API allows for messages alone."""
    return item.get("type", "message") == "message" and item.get("role", "assistant") == "assistant"
