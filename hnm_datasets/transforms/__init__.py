"""The steps that are passed to `Dataset.map(..., batched=True)`: mine, score, filter, sample, shape.

Derive your own source from `Miner`, your own filter from `CandidateFilter`, and any other step from `Transform`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"base": ["CandidateFilter", "Transform"], "miners.base": ["Miner"]}
)
