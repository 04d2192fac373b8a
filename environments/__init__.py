"""Environments that ask and score: haystacks with needles, served through Atropos."""
