"""What a memory remembers, and what it costs."""
