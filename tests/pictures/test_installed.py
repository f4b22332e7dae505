"""Without matplotlib, every picture says what to install."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "call",
    [
        "training import plot_training; plot_training([{'step': 1, 'refresh_mrr': 0.5}])",
        "hardness import plot_hardness; plot_hardness({})",
        "scores import plot_scores; plot_scores(None)",
        "query import plot_query; plot_query({}, None, None)",
    ],
)
def test_a_missing_matplotlib_is_named(call):
    # In a process of its own: here matplotlib may be loaded already.
    code = f"import sys; sys.modules['matplotlib'] = None; from hnm_datasets.pictures.{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: plot_" in done.stderr
    assert "needs matplotlib: pip install 'hnm-datasets[plots]'" in done.stderr
