"""Checks of the course's exercises, which say what is off in an answer and never what is right."""
