"""schemathesis makes requests of the server's own OpenAPI description: none may end in a 5xx or an undescribed status."""

from __future__ import annotations

from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the fuzzer's own dependencies


def test_nothing_breaks_the_server(served: Any) -> None:
    from hypothesis import HealthCheck, Phase, given, seed, settings

    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    seen = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @seed(1)
        @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck),
                  phases=[Phase.generate])  # fmt: skip
        @given(case=operation.as_strategy())
        def attack(case: Any) -> None:
            for limit in ("max_tokens", "max_output_tokens"):
                if isinstance(case.body, dict) and isinstance(case.body.get(limit), int):
                    case.body[limit] = min(case.body[limit], 4)  # answers stay short
            response = case.call(timeout=300)
            assert response.status_code < 500, (case.body, response.text)
            assert response.status_code in (200, 400, 404, 405, 413, 429), response.status_code

        attack()
        seen += 1
    assert seen >= 17
    assert served.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200
