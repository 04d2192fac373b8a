"""A small model served here, for the demo and for token-exact rollouts."""
