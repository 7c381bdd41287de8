import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from _counting import Counter, forget_peak, resident_bytes

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "real_size.py"


def test_products_are_counted_as_two_operations_a_term() -> None:
    a, b, total = torch.randn(3, 4), torch.randn(4, 5), torch.zeros(3, 5)
    with Counter() as counter:
        torch.mm(a, b)
    assert counter.flops == 2 * 3 * 4 * 5
    assert counter.bytes == 4 * (3 * 4 + 4 * 5 + 3 * 5)
    with Counter() as counter:
        total.addmm_(a, b)
    assert counter.flops == 2 * 3 * 4 * 5


def test_a_way_back_counts_too() -> None:
    a = torch.randn(3, 4, requires_grad=True)
    with Counter() as counter:
        (a @ torch.randn(4, 5)).sum().backward()
    assert counter.flops == 2 * (2 * 3 * 4 * 5)


def test_views_are_free_and_gathers_read_what_they_return() -> None:
    table = torch.randn(1000, 8)
    with Counter() as counter:
        table[10:20].view(-1).unsqueeze(0)
    assert counter.bytes == 0
    with Counter() as counter:
        table.index_select(0, torch.tensor([1, 2]))
    assert counter.bytes < 1000


def test_attention_is_counted_forward_and_back() -> None:
    q, k, v = (torch.randn(2, 3, 8, 4, requires_grad=True) for _ in range(3))
    with Counter() as counter:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    forward = 2 * 2 * (2 * 3 * 8 * 8 * 4)
    assert counter.flops == forward
    with Counter() as counter:
        out.sum().backward()
    assert counter.flops == 5 * forward / 2


def test_the_peak_is_that_of_what_was_held() -> None:
    forget_peak()
    before = resident_bytes("VmRSS")
    torch.ones(2**24)  # 64 MiB, gone at once
    assert 0.9 * 2**26 < resident_bytes("VmHWM") - before < 1.5 * 2**26


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], str]:
    path = tmp_path_factory.mktemp("real_size") / "figures.json"
    command = [sys.executable, str(SCRIPT), "--size", "tiny", "--batch", "2"]
    command += ["--speech", "5", "--settings", "16", "--objectives", "otreg"]
    done = subprocess.run(
        [*command, "--json", str(path)], check=True, capture_output=True, text=True
    )
    return json.loads(path.read_text()), done.stdout


def test_the_benchmark_measures_every_setting(report: tuple[list[dict], str]) -> None:
    rows, printed = report
    assert [row["vocabulary"] for row in rows] == [16]
    for row in rows:
        assert 0 < row["transport_flops"] < row["flops"] < row["step_flops"]
        assert row["bytes"] > row["transport_bytes"] > 0
        assert row["table"] == 512 * 32 * 2
        assert f"| 5 s | otreg | {row['vocabulary']} |" in printed


def test_the_models_operations_are_those_of_its_layers(report: tuple[list[dict], str]) -> None:
    # By hand: the tiny language model's head alone, forward and back to its inputs.
    positions = 2 * (20 + 15 + 50)
    assert report[0][0]["step_flops"] > 2 * (2 * positions * 32 * 512)
