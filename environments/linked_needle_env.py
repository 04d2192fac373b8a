"""LinkedNeedleEnv: needles that belong together.

    linked-needle-env process  --env.tokenizer_name DIR --openai.base_url http://127.0.0.1:9001/v1 --openai.model_name NAME
    linked-needle-env evaluate --env.tokenizer_name DIR --env.lengths 4096,16384 --env.hops 2-8 --openai.base_url …

Tasks: chains among decoy chains, values that change with time, find all, count, order, join, and the absent twin of each
(`haystack/linked.py`).
"""

from environments.haystack_env import HaystackEnv


class LinkedNeedleEnv(HaystackEnv):
    name = "linked_needle"
    default_tasks = "chain,update,find_all,count,order,join"


def main() -> None:
    LinkedNeedleEnv.cli()


if __name__ == "__main__":
    main()
