"""The steps that go into `Dataset.map(..., batched=True)`: mine, score, filter, sample, shape.

`Miner`, `CandidateFilter` and `Transform` are the bases for a source, a filter and any other step of your own.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"base": ["CandidateFilter", "Transform"], "miners.base": ["Miner"]}
)
