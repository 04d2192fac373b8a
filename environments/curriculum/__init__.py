"""From easy to hard, task by task, as scores allow."""
