"""What exists: the manifest of stacks and their verified local files."""
