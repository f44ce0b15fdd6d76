"""Whether a stack can be trusted, and what two stacks differ in."""
