"""LinkedNeedleEnv: needles that belong together.

    linked-needle-env process  --env.tokenizer_name DIR --openai.base_url http://127.0.0.1:9001/v1 --openai.model_name NAME
    linked-needle-env evaluate --env.tokenizer_name DIR --env.lengths 4096,16384 --env.hops 2-8 --openai.base_url …

Tasks: chains among decoy chains, values that change with time, find all, count, order, join; graphs, hidden questions, and
the turns and sessions of a chat, when asked for; and the absent twin of each (`haystack/tasks/`).
"""

from environments.config import DEFAULT_TASKS
from environments.haystack_env import HaystackEnv


class LinkedNeedleEnv(HaystackEnv):
    """Environment of linked needles: chains, updates, find all, count, order and join, and the absent twin of each."""

    name = "linked_needle"
    default_tasks = DEFAULT_TASKS[name]


def main() -> None:
    """Run the command line."""
    LinkedNeedleEnv.cli()


if __name__ == "__main__":
    main()
