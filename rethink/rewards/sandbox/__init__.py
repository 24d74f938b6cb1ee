"""The sandbox for programs that nobody has read: walls, start, limits and kill.

docs/security.md says what is covered and what is not.
"""
