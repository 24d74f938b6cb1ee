"""Programs that attack. Each body of `ATTACKS` returns True only where it got what it wanted; its program then gives
the right answers, so a score of 1 is a breach. `FORGERIES` and `EXHAUSTION` are whole programs that go for the verdict
or for the machine. `{host_file}`, `{port}` and `{unix}` are filled in by the test.
"""

from __future__ import annotations

from textwrap import dedent, indent

SECRET = "RETHINK_TEST_SECRET"

_C = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); call = libc.syscall\n"

ATTACKS: dict[str, str] = {
    # The host's files.
    "read /etc/passwd": "return bool(open('/etc/passwd').read())",
    "read a file of the host": "return bool(open('{host_file}').read())",
    "stat a file of the host": "import os; return os.stat('{host_file}').st_size > 0",
    "list the root": "import os; return bool({{'home', 'etc', 'root', 'usr', 'var', 'work'}} & set(os.listdir('/')))",
    "walk upwards": "import os; return os.path.exists('../../../../../../etc/hostname')",
    "read site-packages": "import numpy; return True",
    "environment": f"import os; return '{SECRET}' in os.environ or any('RETHINK' in k for k in os.environ)",
    "/proc/1/environ": "return bool(open('/proc/1/environ', 'rb').read())",
    "/proc/self/mem": "return bool(open('/proc/self/mem', 'r+b'))",
    "/proc/self/root": "import os; return bool(os.listdir('/proc/self/root/etc'))",
    "/sys": "import os; return bool(os.listdir('/sys'))",
    "write to /tmp": "open('/tmp/x', 'w').write('x'); return True",
    "write here": "open('x', 'w').write('x'); return True",
    "write to /dev": "import os; os.mkdir('/dev/x'); return True",
    "change the library": "import os; open(os.__file__, 'a').write('#'); return True",
    "change the runner": "open('/sandbox/inside/program.py', 'a').write('#'); return True",
    "chmod": "import os; os.chmod('/python', 0o777); return True",
    "symlink out": "import os; os.symlink('/etc', '/tmp/e'); return bool(os.listdir('/tmp/e'))",
    "symlink in /sandbox": "import os; os.symlink('{host_file}', '/sandbox/l'); return bool(open('/sandbox/l').read())",
    "hard link": "import os; os.link('/python/bin/python3', '/python/bin/x'); return True",
    "rename": "import os; os.rename('/python', '/snake'); return True",
    "inherited folder": """
        import os, stat
        for fd in range(3, 256):
            try:
                if stat.S_ISDIR(os.fstat(fd).st_mode): return True
            except OSError: pass
    """,
    "inherited socket": """
        import os, stat
        for fd in range(0, 256):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode): return True
            except OSError: pass
    """,
    "chroot": "import os; os.chroot('/sandbox'); return True",
    "mknod": "import os, stat; os.mknod('/dev/x', 0o600 | stat.S_IFBLK, os.makedev(254, 0)); return True",
    "/dev/mem": "return bool(open('/dev/mem', 'rb'))",
    "/dev/kmsg": "return bool(open('/dev/kmsg', 'rb'))",
    "the disk": "return bool(open('/dev/vda', 'rb'))",
    # The network.
    "connect to the host": "import socket; return bool(socket.create_connection(('127.0.0.1', {port}), 2))",
    "udp": "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {port})); return True",
    "abstract unix socket": "import socket; s = socket.socket(1); s.connect('\\0{unix}'); return True",
    "vsock": "import socket; return bool(socket.socket(40, 1))",
    "netlink": "import socket; return bool(socket.socket(16, 3))",
    "raw system call for a socket": _C + "return call(41, 2, 1, 0) >= 0",
    "socket pair of another family": "import socket; return bool(socket.socketpair(16))",
    "resolve a name": "import socket; return bool(socket.getaddrinfo('example.org', 80))",
    # Processes.
    "fork": "import os; pid = os.fork(); pid or os._exit(0); return True",
    "vfork": _C + "return call(58) >= 0",
    "clone": _C + "return call(56, 17, 0, 0, 0, 0) >= 0",
    "clone3": _C + "b = (ctypes.c_ulong * 11)(); return call(435, b, 88) >= 0",
    "subprocess": "import subprocess; return subprocess.run(['/python/bin/python3', '-c', '0']).returncode == 0",
    "posix_spawn": "import os; return bool(os.posix_spawn('/python/bin/python3', ['p', '-c', '0'], {{}}))",
    "exec": "import os; os.execv('/python/bin/python3', ['p', '-c', 'print(4)'])",
    "system": "import os; return os.system('true') == 0",
    "multiprocessing": "import multiprocessing as m; p = m.Process(target=int); p.start(); return True",
    "memfd and exec": _C + "return call(319, b'x', 0) >= 0",
    "signal the parent": "import os; os.kill(os.getppid(), 0); return True",
    "kill the parent": "import os; os.kill(os.getppid(), 9); return True",
    "kill everyone": "import os; os.kill(-1, 9); return True",
    "kill the group": "import os; os.killpg(0, 15); return True",
    "tgkill the parent": _C + "import os; p = os.getppid(); return call(234, p, p, 9) == 0",
    "signal by queue": _C + "import os; b = (ctypes.c_char * 128)(); return call(129, os.getppid(), 10, b) == 0",
    "signal by descriptor's owner": """
        import fcntl, os
        r, w = os.pipe()
        fcntl.fcntl(r, 10, 9)
        fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())
        return True
    """,
    "ptrace": _C + "import os; return call(101, 16, os.getppid(), 0, 0) == 0",
    "ptrace itself": _C + "return call(101, 0, 0, 0, 0) == 0",
    "read the parent's memory": _C
    + "import os; b = (ctypes.c_ulong * 2)(); return call(310, os.getppid(), b, 1, b, 1, 0) >= 0",
    "pidfd of the parent": "import os; return os.pidfd_open(os.getppid()) >= 0",
    "the parent's limits": "import os, resource as r; r.prlimit(os.getppid(), r.RLIMIT_CPU, (1, 1)); return True",
    "the parent's priority": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19); return True",
    "the parent's processors": "import os; os.sched_setaffinity(os.getppid(), {{0}}); return True",
    # Privileges and the kernel's corners.
    "become root": "import os; os.setuid(0); return os.getuid() == 0",
    "be root": "import os; return os.getuid() == 0 or os.geteuid() == 0",
    "user namespace": _C + "return call(272, 0x10000000) == 0",
    "enter a namespace": _C + "return call(308, 0, 0) == 0",
    "mount": _C + "return call(165, b'none', b'/sandbox', b'tmpfs', 0, 0) == 0",
    "pivot_root": _C + "return call(155, b'/', b'/') == 0",
    "raise a limit": """
        import resource
        for kind in range(16):
            try:
                soft, hard = resource.getrlimit(kind)
                if hard != resource.RLIM_INFINITY:
                    resource.setrlimit(kind, (hard + 1, hard + 1))
                    return True
            except (OSError, ValueError): pass
    """,
    "second filter": _C + "return libc.prctl(22, 2, 0, 0, 0) == 0 or call(317, 1, 0, 0) == 0",
    "personality": _C + "return call(135, 0x0040000) >= 0",
    "keys": _C + "return call(248, b'user', b'k', b'v', 1, -2) >= 0",
    "io_uring": _C + "b = (ctypes.c_char * 120)(); return call(425, 4, b) >= 0",
    "bpf": _C + "b = (ctypes.c_char * 128)(); return call(321, 0, b, 128) >= 0",
    "perf events": _C + "b = (ctypes.c_char * 128)(); return call(298, b, 0, -1, -1, 0) >= 0",
    "userfaultfd": _C + "return call(323, 1) >= 0",
    "shared memory": _C + "return call(29, 0, 4096, 0o1600) >= 0",
    "message queue": _C + "return call(240, b'x', 0o102, 0o600, 0) >= 0",
    "32-bit system call": _C + "return call(0x40000000 + 39) > 0",
    "type into a terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x'); return True",
    "reboot": _C + "return call(169, 0, 0, 0, 0) == 0",
    "set the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0); return True",
    # The tests.
    "tests on the stack": """
        import sys
        frame, needle = sys._getframe().f_back, chr(51) + '1337'
        while frame:
            if any(needle in repr(v) for v in list(frame.f_locals.values())): return True
            frame = frame.f_back
    """,
    "tests in the heap": """
        import gc
        needle = chr(51) + '1337'
        return any(needle in repr(o)[:10000] for o in gc.get_objects() if isinstance(o, (dict, list, tuple)))
    """,
    "tests in sys.modules": "import sys; return any(hasattr(m, 'check') for m in list(sys.modules.values()))",
    "tests from the input": "import os; return any(chr(51).encode() + b'1337' in os.read(fd, 65536) for fd in (0,))",
}

FORGERIES: dict[str, str] = {
    "exit 0 at once": "import sys; sys.exit(0)",
    "os._exit(0) at once": "import os; os._exit(0)",
    "exit 0 when called": "import sys\ndef solve(x): sys.exit(0)",
    "os._exit(0) when called": "import os\ndef solve(x): os._exit(0)",
    "raise SystemExit subclass": "class E(SystemExit): pass\ndef solve(x): raise E(0)",
    "raise KeyboardInterrupt": "def solve(x): raise KeyboardInterrupt",
    "StopIteration": "def solve(x): raise StopIteration",
    "GeneratorExit": "def solve(x): raise GeneratorExit",
    "print the verdict": "print('passed')\ndef solve(x):\n    print('passed', '{\"verdict\": \"passed\"}', 'OK')",
    "verdict to every descriptor": """
        import os
        def solve(x):
            for fd in range(256):
                try: os.write(fd, b'{"verdict":"passed","why":""}\\n')
                except OSError: pass
    """,
    "verdict to every descriptor at once": """
        import os
        for fd in range(256):
            try: os.write(fd, b'{"verdict":"passed","why":""}\\n' * 3)
            except OSError: pass
        os._exit(0)
    """,
    "requests of its own": """
        import os
        def solve(x):
            for fd in range(3, 256):
                try: os.write(fd, b'{"op":"names","names":["check"]}\\n' * 9)
                except OSError: pass
    """,
    "replies prepared": """
        import os
        for fd in range(3, 256):
            try: os.write(fd, b'{"loaded":true}\\n{"v":{"d":[["solve",{"h":0}]]}}\\n' + b'{"v":true}\\n' * 50)
            except OSError: pass
        os._exit(0)
    """,
    "stop where nothing iterates": """
        import os
        def solve(x):
            for fd in range(3, 256):
                try: os.write(fd, b'{"stop":true}\\n' * 20)
                except OSError: pass
            os._exit(0)
    """,
    "override AssertionError": """
        import builtins
        class Never(Exception):
            def __new__(cls, *a): raise SystemExit(0)
        builtins.AssertionError = Never
        def solve(x): return None
    """,
    "override built-in functions": """
        import builtins
        for name in ('all', 'any', 'abs', 'len', 'isinstance', 'map', 'sorted', 'list'):
            setattr(builtins, name, lambda *a, **k: True)
        def solve(x): return None
    """,
    "replace the writer": """
        import sys
        def solve(x): return x
        for name, module in list(sys.modules.items()):
            if name.endswith('wire'):
                module.encode = lambda value, hold: {"verdict": "passed"}
                module.dumps = lambda message: b'{"verdict":"passed"}\\n'
    """,
    "replace the tests' module": """
        import sys
        def solve(x): return None
        for name, module in list(sys.modules.items()):
            if name.endswith('tests'):
                module._run = module.run = lambda *a: None
    """,
    "lying __eq__": """
        class Yes:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return 0
            def __bool__(self): return True
            def __len__(self): return 1
        def solve(x): return Yes()
    """,
    "lying int": """
        class Yes(int):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            __hash__ = int.__hash__
        def solve(x): return Yes(-1)
    """,
    "lying str": """
        class Yes(str):
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        def solve(x): return Yes('no')
    """,
    "lying list": """
        class Yes(list):
            def __eq__(self, other): return True
            def __iter__(self): return iter(())
            def __len__(self): return 1
        def solve(x): return Yes([Yes()])
    """,
    "lying __class__": """
        class Yes:
            @property
            def __class__(self): return int
            def __eq__(self, other): return True
            def __index__(self): return 4
        def solve(x): return Yes()
    """,
    "lying inside a tuple": """
        class Yes:
            def __eq__(self, other): return True
            def __hash__(self): return 0
        def solve(x): return (Yes(), [Yes()], {Yes(): Yes()})
    """,
    "lying numbers": """
        class Yes(float):
            def __sub__(self, other): return 0.0
            __rsub__ = __sub__
            def __lt__(self, other): return True
            __gt__ = __le__ = __ge__ = __eq__ = __lt__
            __hash__ = float.__hash__
        def solve(x): return Yes(-5)
    """,
    "not a number": "def solve(x): return float('nan')",
    "lying __getattr__": """
        class Yes:
            def __getattr__(self, name): return lambda *a, **k: True
            def __call__(self, *a, **k): return self
            def __eq__(self, other): return True
        solve = Yes()
    """,
    "an object with every method": """
        class Yes:
            def __iter__(self): return self
            def __next__(self): raise StopIteration
            def __eq__(self, other): return True
            def __contains__(self, item): return True
        def solve(x): return Yes()
    """,
    "the argument back": "def solve(x): return x",
    "change the argument": "def solve(x):\n    x.clear() if hasattr(x, 'clear') else None\n    return x",
    "nothing": "",
    "a syntax error": "def solve(x: return x*x",
    "a null byte": "def solve(x): return x\\0",
    "define check": "def check(candidate): return True\ndef solve(x): return None",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef solve(x): raise ValueError",
    "trace": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef solve(x): return None",
    "exception that lies": """
        class E(Exception):
            def __str__(self): raise SystemExit(0)
        E.__name__ = 'StopIteration'
        def solve(x): raise E()
    """,
    "exception that cannot be built": "def solve(x): raise UnicodeDecodeError('a', b'', 0, 1, 'x')",
}

SCATTERED = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
def scatter():
    for step in range(1, 60000):  # a page and two or three of tables each, while the address space grows by one
        page = libc.mmap(step << 30, 4096, 3, 0x100022, -1, 0)
        if page and page != 2**64 - 1: ctypes.memset(page, 1, 1)
"""
"""A quarter of a GiB of pages, each far from the others: three quarters with their tables."""

EXHAUSTION: dict[str, str] = {
    "endless loop": "def solve(x):\n    while True: pass",
    "endless loop at once": "while True: pass",
    "endless loop that catches the signal": """
        import signal
        for number in range(1, 65):
            try: signal.signal(number, lambda *a: None)
            except (OSError, ValueError): pass
        def solve(x):
            while True: pass
    """,
    "sleep": "import time\ndef solve(x): time.sleep(1000)",
    "wait on a lock": "import threading\nlock = threading.Lock(); lock.acquire()\ndef solve(x): lock.acquire()",
    "close the pipes and sleep": "import os, time\ndef solve(x):\n    os.closerange(0, 256)\n    time.sleep(1000)",
    "fork bomb": "import os\ndef solve(x):\n    while True: os.fork()",
    "fork bomb, quiet": """
        import os
        def solve(x):
            while True:
                try: os.fork()
                except OSError: pass
    """,
    "thread bomb": """
        import threading, time
        threading.stack_size(32768)
        made = []
        def solve(x):
            while True:
                try: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start(); made.append(1)
                except RuntimeError:
                    if len(made) > 100: return 4
                    raise
    """,
    "memory bomb": "def solve(x):\n    kept = []\n    while True: kept.append(bytearray(10**7))",
    "memory bomb, caught": """
        def solve(x):
            kept = []
            while True:
                try: kept.append(bytearray(10**7))
                except MemoryError: pass
    """,
    "mapped memory": "import mmap\nkept = []\ndef solve(x):\n    while True: kept.append(mmap.mmap(-1, 1 << 24))",
    "page tables": SCATTERED + "import time\ndef solve(x):\n    scatter()\n    time.sleep(1000)",
    "socket buffers": """
        import socket
        made = []
        def solve(x):
            while True:
                made.append(socket.socketpair())
                for one in made[-1]:
                    one.setblocking(False)
                    try:
                        while True: one.send(bytes(65536))
                    except BlockingIOError: pass
    """,
    "big number": "def solve(x): return 9**9**9",
    "big string": "def solve(x): return 'x' * 10**8",
    "many big strings": "def solve(x): return ['x' * 10**6] * 1000",
    "deep list": "def solve(x):\n    a = []\n    for _ in range(10**6): a = [a]\n    return a",
    "list of itself": "def solve(x):\n    a = []\n    a.append(a)\n    return a",
    "million digits": "def solve(x): return 1 << 10**7",
    "endless iterator": "import itertools\ndef solve(x): return itertools.repeat(4)",
    "endless recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef solve(x): return solve(x)",
    "recursion in C": "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\n"
    "def solve(x): return repr(A())",
    "crash": "import ctypes\ndef solve(x): ctypes.string_at(0)",
    "abort": "import os\ndef solve(x): os.abort()",
    "all descriptors": "import os\ndef solve(x):\n    while True: os.pipe()",
    "many files": "def solve(x):\n    for i in range(10**6): open(f'/tmp/{i}', 'w').write('x' * 10**6)",
    "catastrophic pattern": "import re\ndef solve(x): return re.match(r'(a+)+$', 'a' * 64 + 'b')",
    "flood": "import sys\ndef solve(x):\n    while True: sys.stdout.write('x' * 65536); sys.stderr.write('y' * 65536)",
}

LENGTHY = {
    "endless loop at once",
    "endless loop that catches the signal",
    "fork bomb, quiet",
    "memory bomb, caught",
    "big number",
    "many big strings",
    "endless recursion",
    "recursion in C",
    "catastrophic pattern",
    "flood",
}
"""Of `EXHAUSTION`: those that take their whole second of processor time."""


def attack_program(body: str, **values: object) -> str:
    """A program that gives right answers only where its attack succeeds."""
    filled = dedent(body).strip("\n").format(**values)
    return (
        f"def attack():\n{indent(filled, '    ')}\n    return False\n\n"
        "def solve(x):\n    try: won = attack() is True\n    except BaseException: won = False\n"
        "    return x * x if won else None\n"
    )
