"""Native hot operations: C++, compiled at first use for this processor.

`library.py` compiles and loads; `ops.py` calls them, and says which tensors they serve.
"""
