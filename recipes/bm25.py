"""Static BM25 negatives: retrieve, skip the first ranks, sample, write triplets.

    pip install hnm-datasets
    python bm25.py

Karpukhin et al. 2020, Dense Passage Retrieval (https://arxiv.org/abs/2004.04906), train with BM25 negatives.
"""

import hnm_datasets as hnm

SOURCE = None  # the embedded sample; or a Hub id such as "BeIR/scifact", or a BEIR folder
K = 50  # candidates per query
FIRST_RANK = 1  # increase it to skip the first ranks, which are often relevant but not annotated
NEGATIVES = 5  # sampled from the candidates of each query

corpus, queries = hnm.load_beir(SOURCE) if SOURCE else hnm.load_sample()
steps = [
    hnm.BM25Negatives(corpus, k=K),
    hnm.RankWindow(min=FIRST_RANK),
    hnm.SampleNegatives(NEGATIVES, seed=0),
]
mined = hnm.mine(queries, steps)
print(hnm.explain(mined[1], corpus), "\n")

triplets = hnm.mine(mined, [hnm.ToTriplets(corpus)])
for triplet in triplets.shuffle(seed=0).select(range(3)):
    for column, text in triplet.items():
        print(f"{column:>8}: {text[:100]}")
    print()
print("written:", hnm.save_mined(triplets, "mined/bm25", corpus=corpus), "(the triplets and a card)")
