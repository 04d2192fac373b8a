"""Agentic reading: the text of a sample stands in a file, and the model looks things up in it with tools."""
