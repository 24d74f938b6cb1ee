"""The API keeps to its own description: schemathesis makes requests from `/openapi.json`, right and wrong ones."""

import hypothesis
import pytest

from tests.serve.conftest import Live

NOT_CHECKED = {"positive_data_acceptance"}
"""That every request which fits the schema is carried out. What depends on the model (its name, its context) or on
several fields together (top_logprobs needs logprobs) is refused, and a schema cannot say so."""


@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_answers_are_as_described(live: Live, examples: int) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    registry = schemathesis.checks.CHECKS
    checks = [registry.get_one(name) for name in registry.get_all_names() if name not in NOT_CHECKED]
    seen: set[int] = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def holds(case: "schemathesis.Case") -> None:
            response = case.call()
            seen.add(response.status_code)
            case.validate_response(response, checks=checks)

        holds()
    assert {200, 404} <= seen
    assert not any(status >= 500 for status in seen)
