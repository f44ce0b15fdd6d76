"""How a stack is made."""
