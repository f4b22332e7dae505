"""Publishing mined data: as a folder that `load_dataset` reads, and on the Hub, with a card."""

from hnm_datasets.hub.push import push_mined
from hnm_datasets.hub.saving import save_mined, write_card

__all__ = ["push_mined", "save_mined", "write_card"]
