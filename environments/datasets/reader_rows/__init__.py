"""Rows that make a model a reader: documents with many questions behind them, read whole or side by side, and other text."""
