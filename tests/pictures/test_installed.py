"""Without matplotlib, every picture says what to install."""

import subprocess
import sys

CODE = """
import sys
sys.modules["matplotlib"] = None
from hnm_datasets import plot_hardness, plot_query, plot_scores, plot_training
calls = {
    plot_training: ([{"step": 1, "refresh_mrr": 0.5}],),
    plot_hardness: ({},),
    plot_scores: (None,),
    plot_query: ({}, None, None),
}
for plot, arguments in calls.items():
    try:
        plot(*arguments)
    except ImportError as error:
        print(error)
"""


def test_a_missing_matplotlib_is_named():
    # In a process of its own: here matplotlib may be loaded already.
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "needs matplotlib: pip install 'hnm-datasets[plots]'" in line]
    names = ["plot_training", "plot_hardness", "plot_scores", "plot_query"]
    assert [line.split()[0] for line in lines] == names
