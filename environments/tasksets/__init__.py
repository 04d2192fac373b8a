"""longthread's tasks for other frameworks: `core` draws and scores rows, each other module faces one framework."""
