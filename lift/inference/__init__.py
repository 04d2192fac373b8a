"""Build prompts, decode greedily, retrieve passages, and compute how many tokens fit on the device."""
