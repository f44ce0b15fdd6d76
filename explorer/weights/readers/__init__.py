"""Readers: how the checkpoints of many libraries are recognised, numbered and opened."""
