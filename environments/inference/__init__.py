"""Completions from a server, and the embedded server for machines that have none."""
