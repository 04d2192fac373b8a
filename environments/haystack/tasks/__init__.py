"""The tasks, by the names that users type."""

from environments.haystack.tasks import (
    aggregation,
    dialogue,
    graph,
    hidden_question,
    independent,
    linked,
    variables,
    words,
)
from environments.haystack.tasks.task import Task

_TASKS = (
    Task("single", "single", independent.single),
    Task("multi_key", "multi_key", independent.multi_key),
    Task("multi_value", "multi_value", independent.multi_value),
    Task("multi_query", "multi_query", independent.multi_query),
    Task("absent", "multi_key", independent.multi_key, absent=True),
    Task("custom", "custom", independent.custom, fixed=True),
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
TASKS = {task.name: task for task in _TASKS}


def absent_twin(name: str) -> str:
    """Return the task that asks the same of a text which does not hold the answer; "absent" for a task without its own."""
    question = TASKS[name].question
    return next((task.name for task in _TASKS if task.absent and task.question == question), "absent")
