"""Cross-encoder negatives: retrieve with BM25 and an embedding model, fuse, score with a teacher, denoise, shape.

    python recipes/cross_encoder.py                                    # the embedded sample
    python recipes/cross_encoder.py BeIR/scifact --teacher BAAI/bge-reranker-base --negative-below 0.1

Qu et al. 2021, RocketQA (https://arxiv.org/abs/2010.08191): a cross-encoder keeps a candidate only if it is confident
that it is not relevant, below 0.1; here the highest-scored of those are taken, with the teacher's scores, which
MarginMSELoss and DistillKLDivLoss learn from (Hofstätter et al. 2020, https://arxiv.org/abs/2010.02666).
"""

from _common import add_model_options, load_bi_encoder, load_source, parser_of, write_and_show

from hnm_datasets import (
    BM25Negatives,
    CrossEncoderScores,
    DenseIndex,
    DenseNegatives,
    FuseNegatives,
    SortNegatives,
    TeacherThreshold,
    ToNTuples,
    TopNegatives,
)


def main() -> None:
    parser = parser_of(__doc__, "cross_encoder")
    add_model_options(parser)
    parser.add_argument("--teacher", default="cross-encoder/ms-marco-MiniLM-L6-v2", help="a path or Hub id")
    parser.add_argument("--k", type=int, default=20, help="candidates to score per query (default: 20)")
    parser.add_argument("--negative-below", type=float, default=0.1, help="a sigmoid's confidence (default: 0.1)")
    args = parser.parse_args()

    corpus, queries = load_source(args)
    model = load_bi_encoder(args.model)
    index = DenseIndex(corpus.embed(model, prompt=args.prompt, batch_size=args.batch_size))
    dense = DenseNegatives(
        corpus, model, k=args.k, query_prompt=args.query_prompt, index=index, batch_size=args.batch_size
    )
    sources = FuseNegatives({"bm25": BM25Negatives(corpus, k=args.k), "dense": dense}, k=args.k)
    teacher = CrossEncoderScores(corpus, args.teacher, batch_size=args.batch_size, activation="sigmoid")
    mined = (
        queries.map(sources, batched=True)
        .map(teacher, batched=True)
        .map(TeacherThreshold(negative_below=args.negative_below), batched=True)
        .map(SortNegatives("teacher"), batched=True)
        .map(TopNegatives(args.negatives), batched=True)
    )
    shape = ToNTuples(corpus, n=args.negatives, with_scores="teacher")
    tuples = mined.map(shape, batched=True, remove_columns=mined.column_names)
    write_and_show(corpus, mined, tuples, args.output, "n_tuples", by="teacher")


if __name__ == "__main__":
    main()
