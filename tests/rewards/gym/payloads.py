"""Answers that attack whoever evaluates them, and what shows that one had an effect."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import psutil

SCORER = "reasoning_gym.dataset"


class Host:
    """A folder and a port that no answer may reach.

    Args:
        folder: empty; payloads try to write into it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._children = {process.pid for process in psutil.Process().children(recursive=True)}
        threading.Thread(target=self._count, daemon=True).start()

    def effects(self) -> list[str]:
        """What payloads did: files that they wrote, connections that they made, variables that they set."""
        found = [path.name for path in self.folder.iterdir()]
        found += [f"{self.connections} connections"] * bool(self.connections)
        return found + [name for name in os.environ if name.startswith("PWNED")]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which ends the thread that waits in `accept`
        self._listener.close()

    def _count(self) -> None:
        while True:
            try:
                self._listener.accept()[0].close()
            except OSError:
                return
            self.connections += 1


def payloads(host: Host) -> list[str]:
    """Fifty answers. Each file name is its own, so that a failing test says which payload had an effect."""
    return [*_evaluated(host), *_other(host)]


def _write(host: Host, name: str) -> str:
    return f"open({str(host.folder / name)!r},'w').close()"


def _coded(source: str) -> str:
    """A call that runs the source, without quotes."""
    return f"exec(bytes([{','.join(str(byte) for byte in source.encode())}]))"


def _evaluated(host: Host) -> list[str]:
    def file(name: str) -> str:
        return str(host.folder / name)

    system = '__import__("os").system("touch {}")'
    return [
        # imports
        system.format(file("import")),
        f"[{system.format(file('import-in-list'))}]",
        f"[[{system.format(file('import-in-matrix'))}]]",
        f"({system.format(file('import-in-brackets'))})*0+24",
        f"1+{system.format(file('import-in-sum'))}",
        f"sin({system.format(file('import-in-call'))})",
        f"x if {system.format(file('import-in-condition'))} else x",
        f"x**{system.format(file('import-in-power'))}",
        f"{{'a': {system.format(file('import-in-dict'))}}}",
        f'__import__("subprocess").run(["touch",{file("subprocess")!r}])',
        f'__import__("pathlib").Path({file("pathlib")!r}).touch()',
        f'__import__("importlib").import_module("os").mknod({file("importlib")!r})',
        # exec and eval
        f"exec({_write(host, 'exec')!r})",
        f"eval({_write(host, 'eval')!r})",
        f"eval(compile({_write(host, 'compile')!r},'x','exec'))",
        _coded(_write(host, "coded")),
        f"(lambda: exec({_write(host, 'lambda')!r}))()",
        f"[exec({_write(host, 'comprehension')!r}) for _ in (1,)]",
        f"print(exec({_write(host, 'print')!r}))",
        f"max(exec({_write(host, 'max')!r}) or 1, 2)",
    ]


def _other(host: Host) -> list[str]:
    def file(name: str) -> str:
        return str(host.folder / name)

    patch = "{0}.{1}.score_answer=lambda *a,**k:1.0"
    series = r"\sum_{{n=0}}^{{\infty}} \frac{{n \dot{{=={}}}+1}}{{n!}}"
    subscript = r"\sum_{{n=0}}^{{\infty}} \frac{{n c_{{+{}}}+1}}{{n!}}"
    return [
        # attribute chains
        f"().__class__.__base__.__subclasses__()[-1].__init__.__globals__['__builtins__']['open']({file('chain')!r},'w')",
        f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__=='Popen'][0](['touch',{file('popen')!r}])",
        f"x.__class__.__init__.__globals__['sys'].modules['os'].system('touch {file('symbol')}')",
        f"(1).__class__.__base__.__subclasses__.__self__.__init__.__globals__['os'].system('touch {file('int')}')",
        f"'{{0.__class__}}'.format(exec({_write(host, 'format')!r}))",
        # patches of the scorer and of what later answers are judged with
        "exec(" + repr(f"import {SCORER} as d;" + patch.format("d", "ProceduralDataset")) + ")",
        "exec("
        + repr(
            "import reasoning_gym.factory as f\nfor c, _ in f.DATASETS.values(): c.score_answer = lambda *a, **k: 1.0"
        )
        + ")",
        "exec("
        + repr("import sys;[setattr(m,'score_answer',lambda *a:1.0) for m in list(sys.modules.values())]")
        + ")",
        "exec(" + repr("import json; json.loads = lambda *a, **k: 1/0") + ")",
        "exec(" + repr("import rethink.tasks.gym.checking as j; j.GymJudge._judge = lambda *a: 1.0") + ")",
        "exec(" + repr("import builtins; builtins.float = lambda *a: 1.0; builtins.sorted = lambda *a: []") + ")",
        "exec(" + repr("import os; os.environ['PWNED'] = '1'; os._exit(0)") + ")",
        # sockets
        f'__import__("socket").create_connection(("127.0.0.1",{host.port}))',
        "exec(" + repr(f"import urllib.request as u;u.urlopen('http://127.0.0.1:{host.port}')") + ")",
        f'__import__("os").system("exec 3<>/dev/tcp/127.0.0.1/{host.port}")',
        # sympy and LaTeX
        rf"\{{{series.format(_coded(_write(host, 'series')))}\}}",
        subscript.format(_coded(_write(host, "subscript"))),
        f"Symbol('x').__class__.mro()[-1].__subclasses__() or sympify({_write(host, 'sympify')!r})",
        f"lambdify(x, exec({_write(host, 'lambdify')!r}))",
        f"Function({_write(host, 'function')!r})(x)",
        f"Integral(x, x) + N({_write(host, 'number')!r})",
        r"\text{__import__('os').mknod('" + file("text") + "')}",
        # work without end
        "9**9**9**9",
        "10**(10**10)",
        "factorial(factorial(99999))",
        "1e999999999",
        "1e999999999/3",
        "0x" + "f" * 19_000,
        "[" * 9_000 + "]" * 9_000,
        "(x+1)**99999 + C",
    ]
