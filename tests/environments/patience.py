"""When a test gives up on something that hangs: far beyond what the slowest machine takes for it."""

PATIENCE = 600.0  # seconds
