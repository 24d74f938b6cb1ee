"""Sources of problems, and the checkers that compare answers with gold answers."""
