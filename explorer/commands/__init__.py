"""Commands of `explorer` that have a module each: their options, output and exit status."""
