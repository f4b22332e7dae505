"""Positive-aware dense negatives: a negative scores at most 95% of the positive (TopK-PercPos).

    python recipes/nv_retriever.py                                     # the embedded sample, with MiniLM as teacher
    python recipes/nv_retriever.py BeIR/scifact --model intfloat/e5-mistral-7b-instruct --margin 0.05

Moreira et al. 2024, NV-Retriever (https://arxiv.org/abs/2407.15831): a strong embedding model retrieves, and the best
candidates that score below 95% of the positive are the negatives. They took 4 of them from the top 100.
"""

from _common import add_model_options, load_bi_encoder, load_source, parser_of, write_and_show

from hnm_datasets import DenseIndex, DenseNegatives, RelativeMargin, ToNTuples, TopNegatives


def main() -> None:
    parser = parser_of(__doc__, "nv_retriever")
    add_model_options(parser)
    parser.set_defaults(negatives=4)
    parser.add_argument("--k", type=int, default=100, help="candidates to retrieve per query (default: 100)")
    parser.add_argument("--margin", type=float, default=0.05, help="share below the positive's score (default: 0.05)")
    args = parser.parse_args()

    corpus, queries = load_source(args)
    model = load_bi_encoder(args.model)
    index = DenseIndex(corpus.embed(model, prompt=args.prompt, batch_size=args.batch_size))
    miner = DenseNegatives(
        corpus, model, k=args.k, query_prompt=args.query_prompt, index=index, batch_size=args.batch_size
    )
    mined = (
        queries.map(miner, batched=True)
        .map(RelativeMargin(args.margin), batched=True)
        .map(TopNegatives(args.negatives), batched=True)
    )
    tuples = mined.map(ToNTuples(corpus, n=args.negatives), batched=True, remove_columns=mined.column_names)
    write_and_show(corpus, mined, tuples, args.output, "n_tuples")


if __name__ == "__main__":
    main()
