"""Ambiguous negatives: drawn near the positive's score, neither too easy nor likely false.

    python recipes/simans.py                                           # the embedded sample, with MiniLM
    python recipes/simans.py BeIR/scifact --a 100 --b 0

Zhou et al. 2022, SimANS (https://arxiv.org/abs/2210.11773): of the top 100, draw with a chance in proportion to
exp(-a·(s⁻ - s⁺ - b)²). The paper's a is 0.5 to 1 for dot products of some tens; cosines lie a hundred times closer.
"""

from _common import add_model_options, load_bi_encoder, load_source, parser_of, write_and_show

from hnm_datasets import DenseIndex, DenseNegatives, SampleNegatives, ToTriplets


def main() -> None:
    parser = parser_of(__doc__, "simans")
    add_model_options(parser)
    parser.add_argument("--k", type=int, default=100, help="candidates to retrieve per query (default: 100)")
    parser.add_argument("--a", type=float, default=100.0, help="how sharply the chance falls (default: 100)")
    parser.add_argument("--b", type=float, default=0.0, help="where it is highest, above the positive (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    corpus, queries = load_source(args)
    model = load_bi_encoder(args.model)
    index = DenseIndex(corpus.embed(model, prompt=args.prompt, batch_size=args.batch_size))
    miner = DenseNegatives(
        corpus, model, k=args.k, query_prompt=args.query_prompt, index=index, batch_size=args.batch_size
    )
    sampler = SampleNegatives(args.negatives, strategy="simans", a=args.a, b=args.b, seed=args.seed)
    mined = queries.map(miner, batched=True).map(sampler, batched=True)
    triplets = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)
    write_and_show(corpus, mined, triplets, args.output, "triplets")


if __name__ == "__main__":
    main()
