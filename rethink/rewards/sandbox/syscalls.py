"""Which system calls a program may make: a list of what is allowed, compiled by libseccomp; others fail with EPERM.

Not on it, and so impossible whatever the program finds: starting a process (fork, exec), sockets of any family,
signals, tracing or reading another process, mounts, namespaces, keys, io_uring, bpf, shared memory that outlives a
process, and changing the limits or the priority of anything but itself.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import tempfile
from functools import lru_cache

from rethink.rewards.sandbox.sandbox_errors import SandboxUnavailable

_ALLOW = 0x7FFF0000
_MASKED_EQUAL = 7  # SCMP_CMP_MASKED_EQ
_EQUAL = 4  # SCMP_CMP_EQ
_CTL_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE

_FREE = """
    read write readv writev pread64 pwrite64 lseek close close_range fstat stat lstat newfstatat statx access faccessat
    faccessat2 open openat readlink readlinkat getdents getdents64 getcwd chdir fchdir umask dup dup2 dup3 pipe pipe2
    ftruncate fsync fdatasync flock
    mmap mprotect munmap mremap brk madvise mincore msync
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack pause
    futex set_robust_list set_tid_address rseq membarrier arch_prctl restart_syscall exit exit_group
    sched_yield sched_getaffinity getcpu
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage getitimer setitimer alarm
    getpid gettid getppid getpgrp getpgid getsid getuid geteuid getgid getegid getresuid getresgid getgroups
    uname sysinfo getrandom getrlimit
    select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd eventfd2
    timerfd_create timerfd_settime timerfd_gettime
    sendto recvfrom getsockname getsockopt shutdown
"""
"""Allowed with any arguments. None of them names another process or reaches beyond descriptors that the job holds."""

_OPENING = {"open": 1, "openat": 2}
"""Calls that open files, and which argument says for what."""
_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC

_THREAD = 0x00010000  # CLONE_THREAD
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWUSER, NEWPID, NEWNET, NEWNS, NEWIPC, NEWUTS, NEWCGROUP, NEWTIME
_AF_UNIX = 1
_FCNTL = (0, 1, 2, 3, 4, 1030, 1032)  # descriptors and flags; not F_SETOWN, which signals others
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # terminal queries, FIONREAD, FIONBIO, FIO(N)CLEX


class _Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`."""

    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


def _rules(reading_only: bool) -> list[tuple[str, int, tuple[_Comparison, ...]]]:
    def equal(argument: int, value: int) -> _Comparison:
        return _Comparison(argument, _EQUAL, value, 0)

    free = [name for name in _FREE.split() if not (reading_only and name in _OPENING)]
    rules: list[tuple[str, int, tuple[_Comparison, ...]]] = [(name, _ALLOW, ()) for name in free]
    if reading_only:
        for name, argument in _OPENING.items():
            rules.append((name, _ALLOW, (_Comparison(argument, _MASKED_EQUAL, _WRITING, os.O_RDONLY),)))
    # Threads only. clone3 hides its flags in memory: where it does not exist, glibc uses clone.
    rules.append(("clone", _ALLOW, (_Comparison(0, _MASKED_EQUAL, _THREAD | _NEW_NAMESPACES, _THREAD),)))
    rules.append(("clone3", 0x00050000 | errno.ENOSYS, ()))
    rules.append(("prlimit64", _ALLOW, (equal(0, 0),)))
    rules.append(("socketpair", _ALLOW, (equal(0, _AF_UNIX),)))  # asyncio's loop wakes itself through one
    rules += [("fcntl", _ALLOW, (equal(1, command),)) for command in _FCNTL]
    rules += [("ioctl", _ALLOW, (equal(1, command),)) for command in _IOCTL]
    return rules


@lru_cache(maxsize=2)
def compiled_filter(*, reading_only: bool = False) -> bytes:
    """The filter as BPF instructions of this machine.

    Args:
        reading_only: whether files may be opened for reading alone: for a process that sees the host's.

    Raises:
        SandboxUnavailable: libseccomp is missing or too old.
    """
    name = ctypes.util.find_library("seccomp") or "libseccomp.so.2"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        raise SandboxUnavailable("the library libseccomp is missing") from None
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(0x00050000 | errno.EPERM)))
    if not context:
        raise SandboxUnavailable("libseccomp does not know this machine")
    try:
        library.seccomp_attr_set(context, ctypes.c_int(_CTL_OPTIMIZE), ctypes.c_uint32(2))  # a search tree, where known
        for syscall, action, comparisons in _rules(reading_only):
            number = library.seccomp_syscall_resolve_name(syscall.encode())
            if number < 0:  # this machine has no such call, or libseccomp is older than it; it stays forbidden
                continue
            array = (_Comparison * max(1, len(comparisons)))(*comparisons)
            failed = library.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), ctypes.c_int(number), ctypes.c_uint(len(comparisons)), array
            )
            if failed:
                raise SandboxUnavailable(f"libseccomp refuses a rule for {syscall} ({os.strerror(-failed)})")
        with tempfile.TemporaryFile() as file:
            failed = library.seccomp_export_bpf(context, ctypes.c_int(file.fileno()))
            if failed:
                raise SandboxUnavailable(f"libseccomp cannot write its filter ({os.strerror(-failed)})")
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)
