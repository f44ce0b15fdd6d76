"""The commands whose code is more than a few lines; only `explorer.cli` imports them."""
