"""Native twins of the hot operations: C++ compiled at first use for this processor, behind plain functions of tensors.

`library.py` compiles and loads; `ops.py` calls. Nothing outside `rethink.kernels` imports from here but `rethink doctor`.
"""
