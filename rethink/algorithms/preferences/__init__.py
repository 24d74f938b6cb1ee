"""Objectives of preferences, a file each: the record `PREFERENCE_OBJECTIVE` and the loss, a pure function.

`recipe/preference.py` says what a record is. Torch is imported inside the functions, since a recipe is read without it.
"""
