"""Native twins of the hot operations: C++ compiled at first use for this processor, behind plain functions of tensors.

`library.py` compiles and loads; `ops.py` calls them, and says which tensors they serve.
"""
