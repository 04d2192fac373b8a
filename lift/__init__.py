"""Write documents into the weights of a small language model (LIFT), one adapter for each document (docs/lift.md).

Implements Long Input Fine-Tuning (arXiv 2502.14644) from its equations. The gate is our own: it measures how much
attention the text in the window takes.
"""
