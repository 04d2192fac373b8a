"""A row of the taskset."""

import verifiers.v1 as vf

from longthread.files import JsonObject


class LongthreadData(vf.TaskData):
    """A row: the prompt as messages, and what a reply is scored against."""

    target: JsonObject
    """`Target`: the answer, the prompt's length in tokens, the recipe, and a digest that names the row."""
