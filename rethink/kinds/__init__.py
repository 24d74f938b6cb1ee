"""The kinds of runs, one folder each: recipe, data, loop, run, plan, and views.

A folder's `__init__.py` holds the kind's record (`KIND`, see `rethink/recipe/kind.py`); nothing outside the folder has
to know its name.
"""
