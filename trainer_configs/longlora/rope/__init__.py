"""Context extension by RoPE scaling."""
