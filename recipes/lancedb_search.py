"""Negatives from a search engine: a LanceDB table on disk, asked by words and by vectors, fused, denoised by margins.

    pip install 'hnm-datasets[lancedb]'
    python recipes/lancedb_search.py                                   # the embedded sample, with MiniLM
    python recipes/lancedb_search.py BeIR/scifact --model intfloat/e5-small-v2

A table of your own takes the place of the one that is made here: what counts are the two functions. Those of
Elasticsearch, Vespa or Qdrant look the same. An engine scores only what it finds, so the margin goes by the model's own
scores, which BiEncoderScores writes from the vectors that are there already.
"""

import lancedb
import numpy as np
import pyarrow as pa
from _common import add_model_options, load_bi_encoder, load_source, parser_of, write_and_show
from lancedb.index import FTS

from hnm_datasets import BiEncoderScores, FuseNegatives, RelativeMargin, SearchNegatives, TopNegatives, ToTriplets


def main() -> None:
    parser = parser_of(__doc__, "lancedb")
    add_model_options(parser)
    parser.add_argument("--k", type=int, default=50, help="candidates to retrieve by words, and by vectors")
    parser.add_argument("--margin", type=float, default=0.05, help="share below the positive's score (default: 0.05)")
    args = parser.parse_args()
    corpus, queries = load_source(args)
    model = load_bi_encoder(args.model)

    # The table: ids of the corpus, texts and vectors.
    embeddings = corpus.embed(model, prompt=args.prompt, batch_size=args.batch_size, similarity="cosine")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.vectors.ravel()), embeddings.dimension)
    columns = {"id": corpus.columns["id"], "text": corpus.texts(np.arange(len(corpus))), "vector": vectors}
    table = lancedb.connect(args.output / "tables").create_table("passages", pa.table(columns), mode="overwrite")
    table.create_index("text", config=FTS())

    def search_words(texts: list[str], depth: int) -> tuple[list, list]:
        found = [table.search(text, query_type="fts").select(["id", "_score"]).limit(depth) for text in texts]
        hits = [one.to_arrow() for one in found]
        return [one["id"].to_pylist() for one in hits], [one["_score"].to_pylist() for one in hits]

    def search_vectors(texts: list[str], depth: int) -> tuple[list, list]:
        asked = model.encode_query(texts, prompt=args.query_prompt, batch_size=args.batch_size)
        found = [table.search(one).distance_type("cosine").select(["id", "_distance"]).limit(depth) for one in asked]
        hits = [one.to_arrow() for one in found]
        return [one["id"].to_pylist() for one in hits], [(1 - one["_distance"].to_numpy()).tolist() for one in hits]

    # The names say what the answers depend on: the table's content, and the way of asking.
    words = SearchNegatives(corpus, search_words, k=args.k, fingerprint=f"{corpus.fingerprint} words")
    name = f"{embeddings.fingerprint} {args.query_prompt}"
    sources = {"words": words, "vectors": SearchNegatives(corpus, search_vectors, k=args.k, fingerprint=name)}
    scores = BiEncoderScores(corpus, model, query_prompt=args.query_prompt, embeddings=embeddings)
    mined = (
        queries.map(FuseNegatives(sources), batched=True)  # without num_proc: LanceDB advises against forks
        .map(scores, batched=True)
        .map(RelativeMargin(args.margin), batched=True)
        .map(TopNegatives(args.negatives), batched=True)
    )
    triplets = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)
    write_and_show(corpus, mined, triplets, args.output, "triplets", by="teacher")


if __name__ == "__main__":
    main()
