"""One script per claim; each prints its table and writes JSON."""
