"""The kinds of runs, a folder each: recipe, data, loop, run, plan, and what is shown of it.

A folder's `__init__.py` holds the kind's record (`KIND`, see `rethink/recipe/kind.py`); nothing outside the folder has
to know its name.
"""
