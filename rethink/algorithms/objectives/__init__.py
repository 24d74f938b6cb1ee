"""Objectives, a file each: the record `OBJECTIVE` and the loss, a pure function.

`recipe/objective.py` says what a record is. Torch is imported inside the functions, since a recipe is read without it.
"""
