"""The language of recipes: typed sections, loading, overrides, checks, identity, the record of a kind."""
