"""Rows to train on, from stored rollouts or through Atropos' own generators."""
