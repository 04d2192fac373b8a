"""Figures, pages and logs of results."""
