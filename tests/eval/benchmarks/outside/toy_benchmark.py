"""A benchmark in one file outside the package, with a reader and a grader of its own."""

from rethink.eval.benchmark import Benchmark, Grader, HubData, Row, Verdict


def read(values):
    return Row(values["ask"], values["say"])


def judge(problem, turn):
    said = turn.strip().lower()
    return Verdict(said, float(said == problem.answer))


BENCHMARK = Benchmark(
    name="toy",
    title="Toy",
    family="short",
    data=HubData("toys/toy", "main"),
    read=read,
    prompt="{question}!",
    grader=Grader("toy words", judge, lambda one, other: one == other),
)
