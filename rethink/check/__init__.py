"""`rethink check`: tests whether a recipe can work, before hours are spent on it."""
