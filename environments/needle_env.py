"""NeedleEnv: independent needles in a haystack.

    needle-env process  --env.tokenizer_name DIR --openai.base_url http://127.0.0.1:9001/v1 --openai.model_name NAME
    needle-env evaluate --env.tokenizer_name DIR --env.lengths 1024,4096,16384 --env.depths 11 --openai.base_url …
    needle-env serve    --env.tokenizer_name DIR --openai.server_type vllm --openai.base_url …

Tasks: a single needle, many keys, many values, many queries, and facts that are not there (`haystack/tasks/independent.py`).
"""

from environments.config import DEFAULT_TASKS
from environments.haystack_env import HaystackEnv


class NeedleEnv(HaystackEnv):
    """Environment of independent needles: single ones, many keys, values or queries, and facts that are not there."""

    name = "needle"
    default_tasks = DEFAULT_TASKS[name]


def main() -> None:
    """Run the command line."""
    NeedleEnv.cli()


if __name__ == "__main__":
    main()
