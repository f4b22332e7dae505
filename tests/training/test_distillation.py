"""What the labels of a shape come to in the trainers and losses of sentence-transformers, as they are installed."""

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, SentenceTransformerTrainer
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder import losses as pair_losses
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments, losses
from torch import Tensor, nn

from hnm_datasets import (
    BiEncoderScores,
    BM25Negatives,
    CrossEncoderScores,
    DenseNegatives,
    FuseNegatives,
    RandomNegatives,
    SampleNegatives,
    ToLabeledLists,
    ToLabeledPairs,
    ToNTuples,
    ToTriplets,
    load_sample,
)

pytestmark = pytest.mark.usefixtures("fast_trainers")


def share_of_words(pairs):
    """A teacher whose scores, from 0 to 1, anyone can work out from the texts."""
    words = [(set(query.lower().split()), set(passage.lower().split())) for query, passage in pairs]
    return [len(query & passage) / len(query) for query, passage in words]


def by_hand(query, passages):
    return np.float32(share_of_words([(query, passage) for passage in passages])).tolist()


def make_dot_model(make):
    """A student that compares by dot products, as MarginMSELoss and DistillKLDivLoss do."""
    model = make()
    model.similarity_fn_name = "dot"
    return model


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    """The folder of a tiny cross-encoder with random weights that tell texts apart, and without dropout."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("cross_encoder")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), num_labels=1, max_position_embeddings=64, initializer_range=0.5, **sizes, **still
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def scored(make_static_model, cross_encoder):
    """Rows that were fused, sampled by source, and scored by a teacher and by both students."""
    corpus, queries = load_sample()
    rows = queries.select(range(0, 600, 50)).remove_columns("judged_negative_ids")
    steps = (
        FuseNegatives({"bm25": BM25Negatives(corpus, k=4), "random": RandomNegatives(corpus, k=4)}),
        SampleNegatives({"bm25": 2, "random": 2}),
        CrossEncoderScores(corpus, share_of_words, fingerprint="share-of-words-1"),
        BiEncoderScores(corpus, make_dot_model(make_static_model), name="student"),
        CrossEncoderScores(corpus, cross_encoder, name="logit", activation="none"),
        CrossEncoderScores(corpus, cross_encoder, name="sigmoid", activation="sigmoid"),
    )
    for step in steps:
        rows = rows.map(step, batched=True)
    return corpus, rows


def shaped(scored, step, **options):
    corpus, rows = scored
    out = rows.map(step(corpus, **options), batched=True, remove_columns=rows.column_names)
    assert len(out) >= 8
    return out


def trained(model, loss, rows, folder, steps=2):
    """Train with the trainer for the model; return what the loss received and answered, which must be finite."""
    seen = []
    loss.register_forward_hook(lambda _, given, answer: seen.append((*given[:2], answer.item())))
    kinds = SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    if isinstance(model, CrossEncoder):
        kinds = CrossEncoderTrainer, CrossEncoderTrainingArguments
    trainer_of, arguments_of = kinds
    arguments = arguments_of(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        warmup_steps=0,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer_of(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    assert len(seen) == steps
    assert all(np.isfinite(answer) for *_, answer in seen)
    return seen


def weights_of(model):
    return [weights.detach().clone() for weights in model.parameters()]


def differ(before, model):
    return any(not one.equal(other) for one, other in zip(before, model.parameters(), strict=True))


# ---- bi-encoders -----------------------------------------------------------------------------------------------------

TUPLES = {
    "triplets-margins": (ToTriplets, {"labels": "margins"}, (4,)),
    "triplets-scores": (ToTriplets, {"labels": "scores"}, (4, 2)),
    "tuples-margins": (ToNTuples, {"n": 3, "labels": "margins"}, (4, 3)),
    "tuples-scores": (ToNTuples, {"n": 3, "labels": "scores"}, (4, 4)),
}
MARGINS = [(losses.MarginMSELoss, form) for form in TUPLES]
DIVERGENCES = [(losses.DistillKLDivLoss, form) for form in ("triplets-scores", "tuples-scores")]


@pytest.mark.parametrize(("kind", "form"), MARGINS + DIVERGENCES)
def test_a_bi_encoder_learns_from_a_teacher(make_static_model, scored, tmp_path, kind, form):
    step, options, shape = TUPLES[form]
    model = make_dot_model(make_static_model)
    before = weights_of(model)
    seen = trained(model, kind(model), shaped(scored, step, **options), tmp_path)
    for features, labels, answer in seen:
        assert len(list(features)) == 2 + options.get("n", 1)
        assert labels.shape == shape
        assert answer > 1e-3
    assert differ(before, model)


@pytest.mark.parametrize(("kind", "form"), MARGINS + DIVERGENCES)
def test_a_bi_encoder_has_nothing_to_learn_from_its_own_scores(make_static_model, scored, tmp_path, kind, form):
    step, options, _ = TUPLES[form]
    model = make_dot_model(make_static_model)
    rows = shaped(scored, step, by="student", missing="pad", **options)
    assert np.ptp(np.array(rows["label"])) > 1
    ((_, _, answer),) = trained(model, kind(model), rows, tmp_path, steps=1)
    assert answer == pytest.approx(0, abs=1e-6)


def test_retriever_scores_are_labels_too(make_static_model, scored, tmp_path):
    corpus, rows = scored
    model = make_dot_model(make_static_model)
    own = rows.select_columns(["query", "query_id", "positive_ids"])
    mined = own.map(DenseNegatives(corpus, make_dot_model(make_static_model), k=3), batched=True)
    tuples = shaped((corpus, mined), ToNTuples, n=3, labels="margins", by="score")
    ((_, _, answer),) = trained(model, losses.MarginMSELoss(model), tuples, tmp_path, steps=1)
    assert answer == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("step", "n"), [(ToTriplets, None), (ToNTuples, 3)])
def test_margins_teach_the_same_as_scores(make_static_model, scored, tmp_path, step, n):
    answers, weights = [], []
    for labels in ("margins", "scores"):
        model = make_dot_model(make_static_model)
        rows = shaped(scored, step, n=n, labels=labels)
        seen = trained(model, losses.MarginMSELoss(model), rows, tmp_path / labels, steps=3)
        answers.append([answer for *_, answer in seen])
        weights.append(weights_of(model)[0].numpy())
    assert answers[0] == pytest.approx(answers[1], rel=1e-5)
    np.testing.assert_allclose(*weights, atol=1e-5)


def test_labels_are_of_their_own_texts(scored):
    for form, (step, options, _) in TUPLES.items():
        for row in shaped(scored, step, positives="each", **options):
            own, *others = by_hand(row["anchor"], [row[name] for name in row if name not in ("anchor", "label")])
            margins = [float(np.float32(own) - np.float32(other)) for other in others]
            assert np.ravel(row["label"]).tolist() == (margins if "margins" in form else [own, *others])


# ---- cross-encoders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["margins", "scores"])
@pytest.mark.parametrize(("step", "n"), [(ToTriplets, None), (ToNTuples, 3)])
def test_a_cross_encoder_learns_margins(cross_encoder, scored, tmp_path, step, n, labels):
    model = CrossEncoder(cross_encoder, device="cpu")
    before = weights_of(model)
    rows = shaped(scored, step, n=n, labels=labels)
    for texts, given, answer in trained(model, pair_losses.MarginMSELoss(model), rows, tmp_path):
        assert len(texts) == 2 + (n or 1)
        assert answer > 1e-4
        for query, *passages, label in zip(*texts, given, strict=True):
            scores = np.float32(by_hand(query, passages))
            wanted = scores if labels == "scores" else scores[0] - scores[1:]
            assert np.ravel(label).tolist() == wanted.tolist()
    assert differ(before, model)


@pytest.mark.parametrize("kind", [pair_losses.MSELoss, pair_losses.BinaryCrossEntropyLoss])
def test_a_cross_encoder_learns_scores_of_pairs(cross_encoder, scored, tmp_path, kind):
    model = CrossEncoder(cross_encoder, device="cpu")
    before = weights_of(model)
    rows = shaped(scored, ToLabeledPairs, labels="scores")
    for (queries, passages), labels, answer in trained(model, kind(model), rows, tmp_path):
        assert isinstance(labels, Tensor)
        assert labels.shape == (4,)
        assert answer > 1e-4
        for query, passage, label in zip(queries, passages, labels.tolist(), strict=True):
            assert [label] == by_hand(query, [passage])
    assert differ(before, model)


@pytest.mark.parametrize(
    "kind",
    [
        pair_losses.LambdaLoss,
        pair_losses.ListNetLoss,
        pair_losses.ListMLELoss,
        pair_losses.PListMLELoss,
        pair_losses.RankNetLoss,
        pair_losses.ADRMSELoss,
    ],
)
@pytest.mark.parametrize("positives", ["all", "each"])
def test_a_cross_encoder_learns_lists(cross_encoder, scored, tmp_path, kind, positives):
    model = CrossEncoder(cross_encoder, device="cpu")
    before = weights_of(model)
    rows = shaped(scored, ToLabeledLists, labels="scores", positives=positives)
    for (queries, lists), labels, answer in trained(model, kind(model), rows, tmp_path):
        assert answer > 1e-4
        for query, passages, own in zip(queries, lists, labels, strict=True):
            assert own.tolist() == by_hand(query, passages)
            # ListMLELoss and PListMLELoss take the order of the list for the one to learn.
            assert own.tolist() == sorted(own.tolist(), reverse=True)
    assert differ(before, model)


@pytest.mark.parametrize("kind", [pair_losses.ListMLELoss, pair_losses.PListMLELoss])
def test_lists_come_in_the_order_that_the_labels_ask_for(cross_encoder, scored, tmp_path, kind):
    # No two scores of this teacher are equal, so that there is one order alone.
    rows = shaped(scored, ToLabeledLists, labels="scores", by="logit")
    answers = []
    for respect in (True, False):
        model = CrossEncoder(cross_encoder, device="cpu")
        seen = trained(model, kind(model, respect_input_order=respect), rows, tmp_path, steps=2)
        answers.append([answer for *_, answer in seen])
    assert answers[0] == pytest.approx(answers[1], rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "step", "options"),
    [
        (pair_losses.MarginMSELoss, ToTriplets, {"labels": "margins"}),
        (pair_losses.MarginMSELoss, ToNTuples, {"labels": "margins", "n": 3}),
        (pair_losses.MarginMSELoss, ToNTuples, {"labels": "scores", "n": 3}),
        (pair_losses.MSELoss, ToLabeledPairs, {"labels": "scores"}),
    ],
)
@pytest.mark.parametrize(("by", "activation"), [("logit", nn.Identity()), ("sigmoid", nn.Sigmoid())])
def test_a_cross_encoder_has_nothing_to_learn_from_its_own_scores(
    cross_encoder, scored, tmp_path, kind, step, options, by, activation
):
    model = CrossEncoder(cross_encoder, device="cpu")
    rows = shaped(scored, step, by=by, **options)
    assert np.ptp(np.array(rows["label"])) > 0.1
    ((_, _, answer),) = trained(model, kind(model, activation_fn=activation), rows, tmp_path, steps=1)
    assert answer == pytest.approx(0, abs=1e-6)


def test_list_net_of_own_scores_is_their_entropy(cross_encoder, scored, tmp_path):
    model = CrossEncoder(cross_encoder, device="cpu")
    rows = shaped(scored, ToLabeledLists, labels="scores", by="logit")
    ((_, labels, answer),) = trained(model, pair_losses.ListNetLoss(model), rows, tmp_path, steps=1)
    entropies = [-(own.softmax(0) * own.log_softmax(0)).sum().item() for own in labels]
    # The least that the cross-entropy can be.
    assert answer == pytest.approx(np.mean(entropies), abs=1e-5)
