"""TensorBoard's own reader sees the same scalars in the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from farfield.curves.readers import list_runs

DATA = Path(__file__).parent / "data"


@pytest.mark.peer("tensorboard")
@pytest.mark.parametrize(
    "folder", ["tensorboard/plain", "tensorboard/purged", "tensorboard/diverged", "tensorboardx", "ray/trial_0"]
)
def test_scalars_agree_with_tensorboard(folder: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for file in (DATA / folder).glob("events*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())  # the events alone, without a Ray trial's other files
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    accumulator.Reload()
    (run,) = list_runs(tmp_path).runs
    assert set(run.metrics) == set(accumulator.Tags()["scalars"])
    for tag, series in run.metrics.items():
        theirs = np.array([(e.step, e.wall_time, e.value) for e in accumulator.Scalars(tag)])
        np.testing.assert_array_equal(np.column_stack([series.step, series.time, series.value]), theirs)
