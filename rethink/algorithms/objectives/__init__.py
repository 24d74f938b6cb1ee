"""The objectives, a module each: its record `OBJECTIVE` and its loss, a pure function of the tokens at hand.

`recipe/objective.py` says what a record is. Torch is imported inside the functions, since a recipe is read without it.
"""
