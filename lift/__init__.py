"""LIFT: a document written into the weights of a small language model, one adapter a document (docs/lift.md).

Long Input Fine-Tuning (arXiv 2502.14644) from its equations, with a gate of our own that knows how much the window holds.
"""
