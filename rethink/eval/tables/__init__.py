"""Tables of evaluations, as the paper prints them."""
