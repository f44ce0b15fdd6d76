"""Weights as data: families, layers, checkpoint files, stacks."""
