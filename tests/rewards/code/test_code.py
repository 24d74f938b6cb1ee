"""The part `code`: finding the program, reading the tests, and what passes."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.rewards.builtin import PartContext, make_part
from rethink.rewards.code.part import run
from rethink.rewards.code.problem_tests import LIVECODEBENCH, Assertions, Pairs, defines, read_tests
from rethink.rewards.code.program_text import extract_program
from rethink.rewards.code.verdict import Verdict, assemble, same_output
from rethink.rewards.outcome import PartFunction
from rethink.rewards.sandbox.process import Limits
from rethink.types import Completion, Problem, Prompt
from tests.paths import SHARED_DATA
from tests.rewards.code.by_value import BY_VALUE
from tests.rewards.sandbox_needed import needs_sandbox

ROOMY = Limits(wall_seconds=60.0)
"""A machine under load must not change what these tests say."""


def verdict(program: str, **metadata: Any) -> Verdict:
    tests = read_tests(metadata)
    assert tests is not None
    return run(program, tests, "required", ROOMY)


# Finding the program.


@pytest.mark.parametrize(
    ("text", "prefill", "program"),
    [
        ("x = 1\n", "", "x = 1\n"),
        ("    return 1\n", "", "    return 1\n"),
        ("```python\nx = 1\n```", "", "x = 1\n"),
        ("First:\n```py\na\n```\nbetter:\n```Python3\nb\n```\nand run it:\n```bash\nrm\n```\n", "", "b\n"),
        ("```\nx\n```", "", "x\n"),
        ("```python\n    return 1\n```", "", "    return 1\n"),
        ("```python\nx = 1\n", "", "x = 1\n"),
        ("so ```python\nno\n```</think> <answer>```python\nyes\n```</answer>", "<think>", "yes\n"),
        ("<think>a</think><answer>x = 1</answer>", "", "x = 1"),
        ("<think>```python\nx\n```", "", None),
        ("I think\n```python\nx\n```", "<think>", None),
        ("done</think>\n```python\nx\n```", "<think>", "x\n"),
        ("", "", None),
        ("```python\n```", "", None),
        ("<answer></answer>", "", None),
        ("  <answer>x", "", "x"),
        # A block that names Python before one that names nothing, wherever that stands.
        ("```python\nx = 1\n```\nIt prints:\n```\n5\n```", "", "x = 1\n"),
        ("```bash\npip\n```\n```\nx = 1\n```", "", "x = 1\n"),
        ("```pycon\n>>> 1\n```\n```\nx = 1\n```", "", "x = 1\n"),
        ("```python\nx = 1\n```\n```\ncut", "", "x = 1\n"),
        # Other fences.
        ("~~~python\nx = 1\n~~~", "", "x = 1\n"),
        ("````python\ns = '''\n```\n'''\n````", "", "s = '''\n```\n'''\n"),
        ("- so\n   ```{.python .x}\n   if x:\n       y\n   ```", "", "if x:\n    y\n"),
        ("So: ```python\nx = 1\n```", "", "x = 1\n"),
        ("```python\nx = 1```", "", "x = 1"),
        ("```Python 3 title=a\r\nx = 1\r\n```", "", "x = 1\r\n"),
        ("So: ```python x = 1```.", "", "x = 1"),
        ("```python\ndef f():\n    '''\n    ```\n    '''\n```", "", "def f():\n    '''\n    ```\n    '''\n"),
        # A fence that closes the prompt's.
        ("import x\ndef f(): x\n```", "", "import x\ndef f(): x\n"),
        ("def f(): x\n```\nThis is it.", "", "def f(): x\n"),
        ("This is it:\n```\ndef f(): x", "", "def f(): x"),
    ],
)
def test_the_program_in_a_completion(text: str, prefill: str, program: str | None) -> None:
    assert extract_program(text, prefill) == program


@given(st.text(alphabet="`<>/anspython \n"), st.sampled_from(["", "<think>"]))
def test_any_text_has_a_program_or_none(text: str, prefill: str) -> None:
    program = extract_program(text, prefill)
    assert program is None or program.strip()


# Reading the tests.


def test_forms_of_tests() -> None:
    check = {"test": "def check(candidate):\n    pass", "entry_point": "f", "prompt": "def f():\n"}
    read = read_tests(check)
    assert isinstance(read, Assertions)
    assert (read.entry, read.tests[-1], read.setup) == ("f", "check(f)", ("def f():\n",))
    read = read_tests({k: v for k, v in check.items() if k != "prompt"}, "Write f.")
    assert isinstance(read, Assertions)
    assert read.setup == ()
    mbpp = {"test_list": ["assert f() == 1"], "test_imports": ["import math"], "test_setup_code": "x = 1"}
    assert read_tests(mbpp) == Assertions(
        ("assert f() == 1",), ("import math", "x = 1"), None, "", ("import math", "x = 1")
    )
    pair = Pairs((("1", "2"),))
    assert read_tests({"tests": [{"input": "1", "output": "2"}]}) == pair
    assert read_tests({"official_tests": [{"input": "1", "output": "2"}], "examples": [{"input": "0"}]}) == pair
    assert read_tests({"examples": [{"input": "1", "output": "2"}]}) == pair
    assert read_tests({"input_output": '{"inputs": ["1"], "outputs": ["2"]}'}) == pair
    theirs = {"before": (LIVECODEBENCH,)}
    assert read_tests({"public_test_cases": '[{"input": "1", "output": "2", "testtype": "stdin"}]'}) == Pairs(
        (("1", "2"),), **theirs
    )
    both = read_tests(
        {"public_test_cases": '[{"input":"1","output":"2"}]', "private_test_cases": '[{"input":"3","output":"4"}]'}
    )
    assert both == Pairs((("1", "2"), ("3", "4")), **theirs)
    assert isinstance(read_tests({"tests": ["assert f()"]}), Assertions)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"test_list": []},
        {"test_list": "assert True"},
        {"tests": [{"input": "1"}]},
        {"tests": [3]},
        {"input_output": "{"},
        {"input_output": "[" * 100_000},
        {"input_output": {"inputs": ["1"], "outputs": []}},
        {"private_test_cases": "eJxrYJmqzg=="},  # compressed and pickled: never unpickled
        {"public_test_cases": [{"input": "1", "output": "2"}], "private_test_cases": "eJxrYJmqzg=="},
        {"tests": [{"input": "1", "output": "2", "testtype": "functional"}]},
        {"tests": [{"input": "1", "output": "2", "fn_name": "__import__('os').system"}]},
        {"tests": [{"input": "1", "output": "2", "fn_name": "f"}, {"input": "1", "output": "2"}]},
        {"test": "def check(c): pass", "entry_point": "f; import os"},
    ],
)
def test_tests_that_cannot_be_read(metadata: dict[str, Any]) -> None:
    assert read_tests(metadata) is None


def test_what_a_source_defines() -> None:
    assert defines("import x\ndef f(a):\n  pass", "f")
    assert defines("f = lambda: 1", "f")
    assert defines("async def f(): pass", "f")
    assert defines("class f: pass", "f")
    for no in ("    def f(): pass", "f == 1", "def ff(): pass", "g = f", None):
        assert not defines(no, "f")


def test_the_source_that_is_run() -> None:
    tests = Assertions(("check(f)",), entry="f", prompt="import math\ndef f(x):\n    '''Doc.'''\n")
    assert assemble("    return 1\n", tests) == tests.prompt + "    return 1\n"
    assert assemble("def f(x): return 2", tests) == tests.prompt + "\n\ndef f(x): return 2"
    assert assemble("from __future__ import annotations\ndef f(): 1", tests).startswith("from __future__")


# Outputs.


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True),
        ("1 \r\n2\n\n\n", "1\n2\n", True),
        ("1\n\n2", "1\n2", False),
        ("1.0", "1", True),
        ("0.30", "0.3", True),
        ("0.3", "0.30000000000000004", False),
        ("1  2", "1 2", True),
        (" 1", "1", True),
        ("1 2", "1\n2", False),
        ("YES", "yes", False),
        ("nan", "nan", True),
        ("nan", "NaN", False),
        ("1e3", "1000", True),
        ("inf", "Infinity", False),
        ("", "", True),
        ("", "1", False),
        ("9" * 5000, "9" * 5000 + ".0", False),
        ("1e999999999", "1e999999998", False),
    ],
)
def test_outputs(output: str, expected: str, same: bool) -> None:
    assert same_output(output, expected) is same


# Judging.


@needs_sandbox
def test_assertions_reach_all_that_a_program_gives() -> None:
    program = """
from collections import Counter, namedtuple
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
    def total(self): return self.a + self.b
    def __len__(self): return 2
    def __str__(self): return f"{self.a}-{self.b}"
Point = namedtuple("Point", "x y")
LIMIT = 7
def totals(pairs): return [pair.total() for pair in pairs]
def count(text): return Counter(text)
def squares(n):
    for i in range(n): yield i * i
def twice(f): return lambda x: f(f(x))
def plus(x, *, by=1): return x + by
def fail(kind): raise {"value": ValueError, "own": type("Own", (KeyError,), {})}[kind]("no")
def change(values): values.append(1)
def forever():
    while True: yield 3
"""
    asserts = [
        "assert LIMIT == 7 and plus(1) == 2",
        "assert totals([Pair(1, 2), Pair(3, 4)]) == [3, 7]",
        "assert Pair(1, 2).total() == 3 and Pair(1, 2).a == 1 and len(Pair(1, 2)) == 2 and str(Pair(1, 2)) == '1-2'",
        "assert Pair(1, 2) != Pair(1, 2)",
        "assert count('aab') == {'a': 2, 'b': 1}",
        "assert list(squares(4)) == [0, 1, 4, 9] and sum(squares(3)) == 5 and 9 in squares(4)",
        "it = forever()\nassert next(it) == next(it) == 3",
        "assert twice(plus)(1) == 3 and plus(1, by=4) == 5",
        "try:\n    fail('value')\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'no'",
        "try:\n    fail('own')\n    assert False\nexcept KeyError:\n    pass",
        "values = []\nchange(values)\nassert values == [1]",
        "assert plus(1.5, by=float('inf')) == float('inf') and plus((1,), by=(2,)) == (1, 2)",
    ]
    for line in asserts:
        assert verdict(program, test_list=[line]).passed is True, line
    assert verdict(program, test_list=["assert LIMIT == 7", "assert plus(1) == 3"]).passed is False


@needs_sandbox
def test_who_is_to_blame() -> None:
    assert verdict("def f(): return 1", test_list=["assert g() == 1"]).why == "NameError: name 'g' is not defined"
    assert verdict("def g(): return 1", test="def check(c): assert c() == 1", entry_point="f").passed is False
    # Tests that no program could pass or fail abstain.
    for line in ("assert f( ==", "assert 1 == 1", "import missing\nassert f( =="):
        assert verdict("def f(*a): return 1", test_list=[line]).passed is None, line
    assert verdict("def f(): return 1", test_list=["assert f() == 1"], test_imports=["import missing"]).passed is None
    assert verdict("def f(: 1", test_list=["assert f( =="]).passed is None
    assert verdict("def f(: 1", test_list=["assert f() == 1"]).why.startswith("the program failed to load: SyntaxErr")
    # A function that is named like a built-in one.
    assert verdict("def sum(a, b): return a + b", test_list=["assert sum(1, 2) == 3"]).passed is True
    # But a program cannot replace what the tests use.
    lying = "def f(x): return 0\ndef sorted(x): return [1]"
    assert verdict(lying, test_list=["assert sorted(f([1])) == [1]"]).passed is False
    # Nor a helper that the prompt gives.
    helped = {"prompt": "def half(x): return x / 2\n\ndef f(x):\n    '''Twice.'''\n", "entry_point": "f"}
    check = {"test": "def check(c):\n    assert half(c(3)) == 3"} | helped
    assert verdict("    return 2 * half(x) * 2\n", **check).passed is True
    assert verdict("def f(x): return 0\ndef half(x): return 3", **check).passed is False


@needs_sandbox
@pytest.mark.parametrize("line", BY_VALUE)
def test_what_goes_to_and_fro(line: str) -> None:
    assert verdict(BY_VALUE[line], test_list=[line]).passed is True
    names = set(re.findall(r"^(?:def|class) (\w+)", BY_VALUE[line], re.M)) | {"f"}
    assert verdict("\n".join(map("def {}(*a, **k): return a".format, names)), test_list=[line]).passed is False


@needs_sandbox
@pytest.mark.parametrize(
    ("line", "program"),
    [
        ("assert f((1, 2)) == sys.getsizeof((1, 2))", "class sys: getsizeof = lambda x: 0\ndef f(x): return 0"),
        ("assert math.isclose(f(), 2)", "class math: isclose = lambda *a: True\ndef f(): return 1"),
        ("xs = [2, 1]\nassert f(xs) == sorted(xs)", "def f(xs): xs.clear(); return xs"),
        ("assert f() == 3", "class f:\n    def __eq__(self, other): return True"),
        ("assert not f() - 3", "class f:\n    def __sub__(self, other): return 0"),
        ("assert f() < 3", "class f:\n    def __lt__(self, other): return True"),
        ("assert f(lambda: 3) == 2", "def f(g): g.__globals__['f'] = lambda g: 2\ndef g(): return 2"),
        (
            "class O: x = 1\nassert f(O()) == 2",
            "def f(o): o.__class__ = int; o._link.ask('get', 0, a=['__init__'], n={}).__globals__",
        ),
        ("assert f(lambda: 3) == 3", "def f(g): g._link.send({'do': 'call', 'k': 7, 'a': [], 'n': {}}); return 3"),
        ("class E(Exception): pass\ntry: f()\nexcept E: pass", "class E(Exception): pass\ndef f(): raise E"),
    ],
)
def test_a_program_cannot_decide(line: str, program: str) -> None:
    assert verdict(program, test_list=[line]).passed is False


@needs_sandbox
def test_code_that_sets_the_tests_up() -> None:
    tree = {"test_setup_code": "root = Node(1)\r\nroot.left = Node(2)", "test_list": ["assert height(root) == 2"]}
    program = """
class Node:
    def __init__(self, value): self.value, self.left, self.right = value, None, None
def height(node): return 0 if node is None else 1 + max(height(node.left), height(node.right))
"""
    assert verdict(program, **tree).passed is True
    assert verdict(program.replace("max", "min"), **tree).passed is False
    given = {"test_setup_code": "K = 3", "test_imports": ["import math"], "test_list": ["assert f() == K + math.pi"]}
    assert verdict("from __future__ import annotations\ndef f(): return K + math.pi", **given).passed is True
    assert verdict("K = 0\ndef f(): return math.pi", **given).passed is False


@needs_sandbox
def test_livecodebench_gives_imports_and_depth() -> None:
    def functional(body: str) -> bool | None:
        case = {"input": "40000", "output": "3", "testtype": "functional"}
        row = {"public_test_cases": [case], "metadata": {"func_name": "f"}}
        return verdict(
            f"class Solution:\n    def f(self, n: Optional[int]) -> List[int]:\n        {body}", **row
        ).passed

    assert functional("return int(min(inf, sqrt(9), heappop([3])))") is True
    assert functional("g = lambda i: 3 if i == 0 else g(i - 1)\n        return g(n)") is True
    script = "def f(xs: List[int]): return Counter(xs)[1]\nprint(f([int(x) for x in input().split()]))"
    pair = [{"input": "1 1", "output": "2"}]
    assert verdict(script, public_test_cases=pair).passed is True
    assert verdict(script, tests=pair).passed is False  # other data sets promise nothing


@needs_sandbox
def test_pairs_and_functional_cases() -> None:
    pairs = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10"}]
    assert verdict("print(sum(map(int, input().split())))", tests=pairs).passed is True
    assert verdict("print(3)", tests=pairs).why.startswith("test 2 of 2: wrong output '3")
    cases = [
        {"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional"},
        {"input": "[]\n1", "output": "[1]", "testtype": "functional"},
    ]
    row = {"public_test_cases": json.dumps(cases), "metadata": '{"func_name": "add"}'}
    assert verdict("class Solution:\n    def add(self, xs, x): return xs + [x]", **row).passed is True
    assert verdict("def add(xs, x): return tuple(xs) + (x,)", **row).passed is True
    assert verdict("def add(xs, x): return [x]", **row).passed is False
    apps = {"input_output": {"fn_name": "f", "inputs": [[1, "a"]], "outputs": ["1a"]}}
    assert verdict("def f(n, s): return str(n) + s", **apps).passed is True


def completion(text: str) -> Completion:
    nothing = np.zeros(1, np.float32)
    return Completion(np.zeros(1, np.int32), text, nothing, nothing, "stop")


@pytest.fixture(scope="module")
def part() -> PartFunction:
    return make_part("code", {"wall_seconds": 60}, PartContext(), "reward.parts.0")


@needs_sandbox
def test_the_part(part: PartFunction) -> None:
    problem = Problem("p", "t", "Add one.", None, {"test_list": ["assert f(1) == 2"]})
    prompt = Prompt("…<think>", (1,), "<think>")
    good = "so</think><answer>```python\ndef f(x): return x + 1\n```</answer>"
    assert part(problem, prompt, completion(good)) == 1.0
    assert part(problem, prompt, completion(good.replace("+ 1", "+ 2"))) == 0.0
    assert part(problem, prompt, completion("```python\ndef f(x): return x + 1\n```")) == 0.0  # only a thought
    assert part(problem, prompt, completion("")) == 0.0
    assert part(problem, prompt, completion("so</think>" + "x" * 300_000)) == 0.0
    assert part(Problem("p", "t", "q", None), prompt, completion(good)) is None
    broken = Problem("p", "t", "q", None, {"test_list": ["assert f("]})
    assert part(broken, prompt, completion(good)) is None


# Published sets.


def rows(name: str) -> list[dict[str, Any]]:
    file = Path(SHARED_DATA) / "sets" / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def scores(part: PartFunction, chosen: list[dict[str, Any]], program: str | None = None) -> dict[str, float | None]:
    def one(row: dict[str, Any]) -> float | None:
        metadata = {key: value for key, value in row.items() if key not in ("question", "answer")}
        problem = Problem(row["id"], "t", row["question"], None, metadata)
        text = row["answer"] if program is None else wrong(row, program)
        return part(problem, Prompt("", (1,)), completion(text))

    with ThreadPoolExecutor(2) as threads:
        return dict(zip((row["id"] for row in chosen), threads.map(one, chosen), strict=True))


def wrong(row: dict[str, Any], body: str) -> str:
    """Functions of the right names, all of the same body."""
    names = {row["entry_point"]} if "entry_point" in row else set(re.findall(r"^def (\w+)", row["answer"], re.M))
    return "\n".join(f"def {name}(*args, **named):\n    {body}" for name in sorted(names))


@needs_sandbox
@pytest.mark.parametrize(("name", "count"), [("humaneval", 164), ("mbpp_sanitized", 427)])
def test_a_sample_of_canonical_solutions(part: PartFunction, name: str, count: int) -> None:
    chosen = rows(name)
    assert len(chosen) == count
    assert set(scores(part, chosen[::12]).values()) == {1.0}


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("name", ["humaneval", "mbpp_sanitized"])
def test_all_canonical_solutions(part: PartFunction, name: str) -> None:
    found = scores(part, rows(name))
    assert [key for key, score in found.items() if score != 1.0] == []
    for body in ("return None", "return object()", "raise StopIteration", "import os; os._exit(0)"):
        found = scores(part, rows(name), body)
        assert [key for key, score in found.items() if score != 0.0] == [], body
