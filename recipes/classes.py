"""Negatives for classes and intents: the nearest texts with another label.

    pip install hnm-datasets
    python classes.py

The label of a text is its group in the corpus, and exclude_group=True excludes texts of the same group. SetFit
(Tunstall et al. 2022, https://arxiv.org/abs/2209.11055) also trains on pairs of
texts, but samples other classes at random.
"""

from datasets import Dataset, load_dataset

import hnm_datasets as hnm

SOURCE = None  # the embedded sample's questions; or "mteb/banking77" on the Hub, or a folder of CSV or Parquet files
TEXT = "text"  # the columns of SOURCE
LABEL = "label_text"
POSITIVES = 2  # per text: other texts of its class
K = 50  # candidates per text
NEGATIVES = 5  # per text

if SOURCE:
    texts = load_dataset(SOURCE, split="train").to_pandas().rename(columns={TEXT: "text", LABEL: "group"})
else:  # the classes are the beginnings of questions: "What causes", "How to diagnose", "What are the symptoms", ...
    texts = hnm.load_sample()[1].to_pandas().rename(columns={"query": "text"})
    begins = r"^(What (?:is \(are\)|causes|are the \w+)|How (?:many|to \w+))"
    texts["group"] = texts["text"].str.extract(begins)[0]
texts = texts[["text", "group"]].dropna().drop_duplicates("text")
texts["id"] = [f"t{number}" for number in range(len(texts))]
corpus = hnm.Corpus.from_dataset(texts)

# The positives of a text are the next texts of its class. The only text of a class has none.
classes = texts.groupby("group")["id"]
others = zip(texts["group"].map(classes.agg(list)), classes.cumcount(), strict=True)
positives = [(ids[i + 1 :] + ids[:i])[:POSITIVES] for ids, i in others]
rows = Dataset.from_dict({"query_id": texts["id"], "query": texts["text"], "positive_ids": positives})
rows = rows.filter(lambda row: row["positive_ids"])
print(f"{len(classes)} classes; dropped {len(texts) - len(rows)} texts that are the only one of their class")

mined = hnm.mine(rows, [hnm.BM25Negatives(corpus, k=K, exclude_group=True), hnm.TopNegatives(NEGATIVES)])
print(hnm.explain(mined[1], corpus), "\n")

triplets = hnm.mine(mined, [hnm.ToTriplets(corpus)])
print("written:", hnm.save_mined(triplets, "mined/classes", corpus=corpus), "(the triplets and a card)")
