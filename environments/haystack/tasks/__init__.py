"""What is asked: independent needles, and linked ones."""
