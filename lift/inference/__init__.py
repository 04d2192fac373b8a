"""Build prompts, decode greedily, choose which memories are open and cite them, retrieve passages, count tokens that fit."""
