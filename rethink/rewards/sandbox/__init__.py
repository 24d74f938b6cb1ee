"""Running programs that nobody has read: what surrounds them, how they are started, limited and killed.

docs/security.md says what is covered and what is not.
"""
