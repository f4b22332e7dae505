"""Hard negative mining as batched `Dataset.map` transforms.

The public names are listed in `__init__.pyi`, grouped by task. Each is imported on first use, so `import hnm_datasets`
takes milliseconds and loads neither torch nor FAISS.
"""

import lazy_loader

from hnm_datasets.version import __version__ as __version__

__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
