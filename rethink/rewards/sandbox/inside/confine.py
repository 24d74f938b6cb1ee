"""A filter of system calls for the process itself. Once set it is final, and children inherit it."""

from __future__ import annotations

import ctypes

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def set_filter(libc: ctypes.CDLL, bpf: bytes) -> None:
    """Set a compiled filter.

    Args:
        libc: with `use_errno`.
        bpf: instructions, from `rethink.rewards.sandbox.syscalls`.

    Raises:
        OSError: the kernel refuses it.
    """
    loaded = _Program(len(bpf) // 8, bpf)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the filter of system calls could not be set")
