"""Builds one Sample: an exact-length prompt with known needles. Imports neither atroposlib nor torch."""
