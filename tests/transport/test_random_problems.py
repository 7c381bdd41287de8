"""A sample of benchmarks/random_problems.py: five families of costs, checked in float64."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import random_problems


@pytest.mark.parametrize(("method", "count"), [("auto", 400), ("accelerated", 40)])
def test_random_problems_converge_or_say_that_they_did_not(
    method: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert random_problems.main(["--count", str(count), "--methods", method, "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert "0 complaints" in printed
    assert printed.count(f"| {method} |") == len(random_problems.FAMILIES)


def test_a_wrong_plan_is_complained_of(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    solve = random_problems.sinkhorn

    def wrong(*arguments, **options):
        result = solve(*arguments, **options)
        if options["method"] != "auto":
            return result
        plan = result.plan.clone()
        plan[:, 0, 0] += 0.01
        return dataclasses.replace(result, plan=plan)

    monkeypatch.setattr(random_problems, "sinkhorn", wrong)
    assert random_problems.main(["--count", "8"]) == 1
