"""How good negatives are: what is wrong with them, how hard they are, how many are relevant in truth."""

from hnm_datasets.audit.comparison import Comparison, compare_negatives
from hnm_datasets.audit.explanation import Explanation, explain
from hnm_datasets.audit.pictures import plot_hardness, plot_scores
from hnm_datasets.audit.query_picture import plot_query
from hnm_datasets.audit.report import Audit
from hnm_datasets.audit.run import audit_negatives
from hnm_datasets.audit.training_picture import plot_training

__all__ = [
    "Audit",
    "Comparison",
    "Explanation",
    "audit_negatives",
    "compare_negatives",
    "explain",
    "plot_hardness",
    "plot_query",
    "plot_scores",
    "plot_training",
]
