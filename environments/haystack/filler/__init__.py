"""Text that needles are hidden in: generated prose, or a corpus of one's own."""
