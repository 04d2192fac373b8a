"""Reinforcement from served environments: `longthread rl CONFIG` trains a model on the groups that run-api hands out."""
