"""``metrics.csv``: one row per step, also after resumption."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_reg.training.metrics_file import MetricsFile, read_metrics


def test_what_is_logged_is_a_row_per_step_with_all_columns(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.log_metrics({"train/loss": 3.0, "validation/error": 0.5, "epoch": 0}, 0)
    metrics.log_metrics({"train/loss": 2.0}, 1)
    metrics.save()
    metrics.log_metrics({"validation/error": 0.25}, 1)  # of a row that is in the file
    metrics.save()
    assert [row["validation/error"] for row in read_metrics(tmp_path)] == ["0.5", "0.25"]
    metrics.log_metrics({"train/loss": 1.0, "stage": 1.0}, 2)  # a new column
    metrics.save()
    metrics.log_metrics({"train/loss": 0.5}, 3)
    metrics.save()
    rows = read_metrics(tmp_path)
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    assert [float(row["train/loss"]) for row in rows] == [3.0, 2.0, 1.0, 0.5]
    assert [row["validation/error"] for row in rows] == ["0.5", "0.25", "", ""]
    assert [row["stage"] for row in rows] == ["", "", "1.0", ""]


@pytest.mark.parametrize("before", [1, 3, 5])
def test_a_resumed_run_replaces_the_rows_from_where_it_goes_on(tmp_path: Path, before: int) -> None:
    first = MetricsFile(tmp_path)
    for step in range(5):
        first.log_metrics({"train/loss": float(step), "stale": 1.0}, step)
    first.save()
    resumed = MetricsFile(tmp_path, before)
    resumed.log_metrics({"train/loss": 100.0}, before)
    resumed.save()
    rows = read_metrics(tmp_path)
    assert [int(row["step"]) for row in rows] == list(range(before + 1))
    assert [float(row["train/loss"]) for row in rows] == [*map(float, range(before)), 100.0]
    assert [row["stale"] for row in rows] == ["1.0"] * before + [""]
