"""Negatives for classes and intents: of texts with labels, the nearest ones of other classes.

    python recipes/classes.py                                     # the sample's questions, by what they ask for
    python recipes/classes.py mteb/banking77 --label label_text   # a Hub id
    python recipes/classes.py intents.csv --text question         # a file: CSV, JSON or Parquet

The label of a text is its group in the corpus: with exclude_group=True no text of the positives' class is mined. SetFit
(Tunstall et al. 2022, https://arxiv.org/abs/2209.11055) trains on pairs of texts too, and draws those of other classes
at random.
"""

from pathlib import Path

import pandas as pd
from _common import parser_of, write_and_show
from datasets import Dataset, load_dataset

from hnm_datasets import BM25Negatives, Corpus, TopNegatives, ToTriplets, load_sample

#: What the sample's questions ask for, by how they begin.
ASKED = {
    "What are the symptoms": "symptoms",
    "What are the treatments": "treatments",
    "How to diagnose": "diagnosis",
    "What causes": "causes",
    "What are the genetic": "genes",
    "How many people": "frequency",
    "What is (are)": "definition",
}


def load_texts(source: str | None, split: str, text: str, label: str) -> pd.DataFrame:
    """Load texts and labels as the columns `text` and `group`, each text once."""
    if source is None:
        questions = load_sample()[1]["query"][:]
        labels = [next((name for start, name in ASKED.items() if one.startswith(start)), None) for one in questions]
        return pd.DataFrame({"text": questions, "group": labels}).dropna().drop_duplicates("text")
    if Path(source).is_file():
        kind = Path(source).suffix.removeprefix(".").replace("jsonl", "json")
        data = load_dataset(kind, data_files=source, split=split)
    else:
        data = load_dataset(source, split=split)
    name_of = getattr(data.features[label], "int2str", str)
    return pd.DataFrame({"text": data[text][:], "group": [name_of(one) for one in data[label]]}).drop_duplicates("text")


def main() -> None:
    parser = parser_of(__doc__, "classes")
    parser.add_argument("--text", default="text", help="the column of texts (default: text)")
    parser.add_argument("--label", default="label", help="the column of labels (default: label)")
    parser.add_argument("--positives", type=int, default=2, help="other texts of its class per text (default: 2)")
    parser.add_argument("--k", type=int, default=50, help="candidates to retrieve per text (default: 50)")
    args = parser.parse_args()

    texts = load_texts(args.source, args.split, args.text, args.label)
    texts["id"] = [f"t{number}" for number in range(len(texts))]
    corpus = Corpus.from_dataset(texts)

    # The positives of a text are the next ones of its class; a text that is alone in its class has none.
    classes = texts.groupby("group")["id"]
    places = zip(texts["group"].map(classes.agg(list)), classes.cumcount(), strict=True)
    count = args.positives
    positives = [(own[place + 1 :] + own[:place])[:count] for own, place in places]
    rows = Dataset.from_dict({"query_id": texts["id"], "query": texts["text"], "positive_ids": positives})
    rows = rows.filter(lambda row: row["positive_ids"])
    print(f"{len(classes)} classes, {len(texts) - len(rows)} texts left out that are alone in theirs")

    mined = rows.map(BM25Negatives(corpus, k=args.k, exclude_group=True), batched=True)
    mined = mined.map(TopNegatives(args.negatives), batched=True)
    triplets = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)
    write_and_show(corpus, mined, triplets, args.output, "triplets")


if __name__ == "__main__":
    main()
