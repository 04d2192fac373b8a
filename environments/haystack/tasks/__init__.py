"""The tasks, by the names that users type: the project's own, and those that other packages bring.

A package brings tasks by entry points of the group `longthread.tasks`, each a name and the `Task` that has it:

    [project.entry-points."longthread.tasks"]
    first_word = "my_package.tasks:FIRST_WORD"

They are found when a name is looked up that is not the project's own, and loaded one by one when they are asked for.
"""

from environments.haystack.tasks import (
    aggregation,
    code,
    dialogue,
    graph,
    hidden_question,
    independent,
    linked,
    own_text,
    variables,
    words,
)
from environments.haystack.tasks.registry import Registry
from environments.haystack.tasks.task import Task

TASKS = Registry(
    (
        Task("single", "single", independent.single),
        Task("multi_key", "multi_key", independent.multi_key),
        Task("multi_value", "multi_value", independent.multi_value),
        Task("multi_query", "multi_query", independent.multi_query),
        Task("absent", "multi_key", independent.multi_key, absent=True),
        Task("custom", "custom", independent.custom, fixed=True),
        Task("passkey", "passkey", independent.passkey, source="noise"),
        Task("chain", "chain", linked.chain, linked=True, ordered=True),
        Task("update", "update", linked.update, linked=True, ordered=True),
        Task("find_all", "find_all", linked.find_all, linked=True),
        Task("count", "count", linked.count, linked=True),
        Task("order", "order", linked.order, linked=True, ordered=True),
        Task("join", "join", linked.join, linked=True, ordered=True),
        Task("absent_chain", "chain", linked.chain, linked=True, absent=True),
        Task("absent_update", "update", linked.update, linked=True, absent=True),
        Task("absent_find_all", "find_all", linked.find_all, linked=True, absent=True),
        Task("absent_count", "count", linked.count, linked=True, absent=True),
        Task("absent_order", "order", linked.order, linked=True, absent=True),
        Task("absent_join", "join", linked.join, linked=True, absent=True),
        Task("cloze", "cloze", own_text.cloze),
        Task("entity", "entity", own_text.entity),
        Task("reconstruct", "reconstruct", own_text.reconstruct),
        Task("absent_cloze", "cloze", own_text.cloze, absent=True),
        Task("absent_entity", "entity", own_text.entity, absent=True),
        Task("code_constant", "code_constant", code.code_constant, source="code", replaceable=True),
        Task("code_chain", "code_chain", code.code_chain, source="code", replaceable=True, ordered=True),
        Task("absent_code_constant", "code_constant", code.code_constant, absent=True, source="code", replaceable=True),
        Task("absent_code_chain", "code_chain", code.code_chain, absent=True, source="code", replaceable=True),
        Task("graph", "graph", graph.graph, linked=True),
        Task("hidden_question", "hidden_question", hidden_question.hidden_question, linked=True, ordered=True),
        Task("turns", "turns", dialogue.turns, linked=True, source="dialogue", told_in_order=True),
        Task("sessions", "sessions", dialogue.sessions, linked=True, source="dialogue", told_in_order=True),
        Task("absent_graph", "graph", graph.graph, linked=True, absent=True),
        Task(
            "absent_hidden_question",
            "hidden_question",
            hidden_question.hidden_question,
            linked=True,
            absent=True,
            ordered=True,
        ),
        Task("absent_turns", "turns", dialogue.turns, linked=True, absent=True, source="dialogue", told_in_order=True),
        Task(
            "absent_sessions",
            "sessions",
            dialogue.sessions,
            linked=True,
            absent=True,
            source="dialogue",
            told_in_order=True,
        ),
        Task("variable_tracking", "variable_tracking", variables.variable_tracking, ordered=True),
        Task("absent_variable_tracking", "variable_tracking", variables.variable_tracking, absent=True, ordered=True),
        Task("common_words", "common_words", words.common_words, items=words.word_items),
        Task("frequent_words", "frequent_words", words.frequent_words, items=words.code_items),
        Task("aggregation", "aggregation", aggregation.aggregation, items=aggregation.Ledger),
        Task("absent_aggregation", "aggregation", aggregation.aggregation, items=aggregation.Ledger, absent=True),
    )
)


def absent_twin(name: str) -> str:
    """Return the task that asks the same of a text which does not hold the answer; "absent" for a task without its own.

    The twin of a task of another package is found by its name, `absent_` before that of the task.
    """
    question = TASKS[name].question
    return next((task.name for task in TASKS.own if task.absent and task.question == question), TASKS.twin(question))
