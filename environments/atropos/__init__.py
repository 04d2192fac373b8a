"""Groups of rollouts on their way to Atropos: serving, sending, and bodies small enough to send."""
