"""One question, its completions and their scores; how they are made, scored and kept."""
