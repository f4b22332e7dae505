"""Pictures say what is true: the values drawn, the findings in their titles, the errors; and they can be read."""

import pickle
import subprocess
import sys

import matplotlib.style
import numpy as np
import pytest
from datasets import Dataset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from hnm_datasets import BM25Negatives, Corpus, DenseNegatives, FuseNegatives, audit_negatives, load_sample
from hnm_datasets.pictures.geometry import gradients, positions_around
from hnm_datasets.pictures.hardness import plot_hardness
from hnm_datasets.pictures.query import plot_query
from hnm_datasets.pictures.scores import plot_scores
from hnm_datasets.pictures.training import plot_training


def title_of(axes):
    return axes.get_title(loc="left")


def all_texts(figure):
    """The figure's own texts, such as its title, and those of its axes."""
    return [text.get_text() for part in (figure, *figure.axes) for text in part.texts]


def check_legible(figure, monkeypatch):
    """No text is small, cut off, or covers another."""
    drawn, draw = [], Text.draw

    def note(text, renderer):
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        draw(text, renderer)

    canvas = FigureCanvasAgg(figure)
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", note)
        canvas.draw()
    assert drawn
    boxes = []
    for text in drawn:
        box = Text.get_window_extent(text, canvas.get_renderer())
        assert text.get_fontsize() >= 10, text
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
        boxes.append((text.get_text(), box.padded(-1)))
    for place, (text, box) in enumerate(boxes):
        for other, another in boxes[:place]:
            assert not box.overlaps(another), (text, other)


# ---- the gradient and the map --------------------------------------------------------------------------------------


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize(("positive", "scale"), [(0, 20.0), (3, 1.0), (1, 100.0)])
def test_gradients_are_those_of_autograd(positive, scale):
    import torch

    rng = np.random.default_rng(positive)
    query, passages = unit(rng.normal(size=12)), unit(rng.normal(size=(6, 12)) + 0.5)
    found = gradients(query, passages, positive, scale)

    # The whole gradient: that of the loss. The query's length is 1, and cosine takes it out again.
    asked = torch.tensor(query, requires_grad=True)
    vectors = torch.tensor(passages)
    cosines = torch.nn.functional.cosine_similarity(asked[None], vectors)
    loss = torch.nn.functional.cross_entropy(scale * cosines[None], torch.tensor([positive]))
    loss.backward()
    np.testing.assert_allclose(found.sum(axis=0), asked.grad.numpy(), atol=1e-9)

    # Each passage's part: what goes through its own cosine.
    through = torch.softmax(scale * cosines.detach(), 0) - torch.eye(6, dtype=torch.float64)[positive]
    for place in range(6):
        asked.grad = None
        (scale * through[place] * torch.nn.functional.cosine_similarity(asked, vectors[place], dim=0)).backward()
        np.testing.assert_allclose(found[place], asked.grad.numpy(), atol=1e-9)


def test_gradients_are_those_of_the_stock_loss(static_model):
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    rng = np.random.default_rng(0)
    query, passages = unit(rng.normal(size=8)), unit(rng.normal(size=(4, 8)))
    loss = MultipleNegativesRankingLoss(static_model, scale=20.0)
    asked = torch.tensor(query[None], requires_grad=True)
    columns = [asked, *(torch.tensor(one[None]) for one in passages)]
    loss.compute_loss_from_embeddings(columns, None).backward()
    np.testing.assert_allclose(gradients(query, passages, 0, 20.0).sum(axis=0), asked.grad[0].numpy(), atol=1e-6)


def test_places_are_at_the_true_angles():
    rng = np.random.default_rng(0)
    query, passages = unit(rng.normal(size=5)), unit(rng.normal(size=(9, 5)))
    places = positions_around(query, passages)
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), np.degrees(np.arccos(passages @ query)), atol=1e-6)
    assert (places[0] >= 0).all()


@pytest.mark.parametrize("passages", [[[1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]], [[-1.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]])
def test_places_where_there_is_no_direction(passages):
    passages = np.array(passages)
    places = positions_around(np.array([1.0, 0.0]), passages)
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), np.degrees(np.arccos(passages[:, 0])), atol=1e-6)


# ---- one query -----------------------------------------------------------------------------------------------------

#: Degrees from the query of each passage.
ANGLES = {"good": 20, "near": 30, "far": 60, "other good": 40} | {f"easy {number}": 85 + number for number in range(8)}


def place_by_angle(texts):
    """A model that places texts by hand: the query at 0 degrees, each passage at its angle, in planes of their own."""
    planes = list(ANGLES)
    vectors = np.zeros((len(texts), 1 + len(planes)))
    for row, text in zip(vectors, texts, strict=True):
        angle = np.radians(ANGLES.get(text, 0))
        row[0] = np.cos(angle)
        if text in ANGLES:
            row[1 + planes.index(text)] = np.sin(angle)
    return vectors


@pytest.fixture(scope="module")
def angles_corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"id {text}" for text in ANGLES], "text": list(ANGLES)}))


ROW = {"query": "what?", "positive_ids": ["id good", "id other good"], "negative_ids": ["id far", "id near"]}


def draw(corpus, row=ROW, **options):
    return plot_query(row, corpus, place_by_angle, fingerprint="angles-1", **{"easy": 4} | options)


def by_label(axes):
    """Where the markers of each kind lie."""
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_the_map_shows_true_angles_and_gradients(angles_corpus):
    figure = draw(angles_corpus)
    world, bars = figure.axes
    markers = by_label(world)
    lengths = {kind: np.linalg.norm(places, axis=1).round(3).tolist() for kind, places in markers.items()}
    assert lengths["query"] == [0.0]
    assert lengths["positive"] == [20.0]
    assert lengths["hard negative"] == [30.0, 60.0]
    assert lengths["other positive (masked)"] == [40.0]
    assert len(lengths["random passage"]) == 4
    assert all(85 <= angle <= 92 for angle in lengths["random passage"])

    # By hand: the loss over the positive, the hard negatives and the random passages.
    angles = np.radians([20, 30, 60, *lengths["random passage"]])
    weights = np.exp(20 * np.cos(angles))
    weights /= weights.sum()
    weights[0] -= 1
    sizes = 20 * np.abs(weights) * np.sin(angles)
    drawn = [patch.get_width() for patch in bars.patches]
    # The near negative sends the most.
    np.testing.assert_allclose(drawn, [sizes[1], sizes[0], sizes[2], sizes[3:].sum()], rtol=1e-4)
    areas = np.concatenate([one.get_sizes() for one in world.collections])
    np.testing.assert_allclose(areas[:3] / areas[0], sizes[:3] / sizes[0], rtol=1e-4)
    # Positives that are not the row's own are no candidates.
    assert areas[-1] == 0
    texts = all_texts(figure)
    assert "1" in texts
    assert "3" in texts
    assert "4" not in texts
    assert "4 random passages together" in texts


def test_the_title_says_the_share_of_the_negatives_gradient(angles_corpus):
    # At a scale next to 0 all weigh the same: what is left is the sine of the angle.
    figure = draw(angles_corpus, scale=1e-6, easy=8)
    hard, random = np.sin(np.radians([30, 60])).sum(), np.sin(np.radians(np.arange(85, 93))).sum()
    assert all_texts(figure)[:2] == [
        f"2 hard negatives send {hard / (hard + random):.0%} of the negatives' gradient, "
        f"8 random ones {random / (hard + random):.0%}",
        "Query: what?",
    ]
    one = draw(angles_corpus, ROW | {"negative_ids": ["id near"]}, easy=1)
    assert all_texts(one)[0] == "1 hard negative sends >99.9% of the negatives' gradient, 1 random one <0.1%"


def test_random_passages_are_drawn_by_the_seed_and_are_none_of_the_row(angles_corpus):
    first, again, other = (by_label(draw(angles_corpus, seed=seed).axes[0])["random passage"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == other.shape
    assert not np.array_equal(first, other)
    # The whole corpus, less what the row knows.
    assert len(by_label(draw(angles_corpus, easy=100).axes[0])["random passage"]) == len(ANGLES) - 4
    alone = draw(angles_corpus, easy=0)
    assert "random passage" not in by_label(alone.axes[0])
    assert all_texts(alone)[0].startswith("The positive sends a gradient of ")


def test_copies_of_the_rows_passages_are_not_drawn_at_random():
    corpus = Corpus.from_dataset(
        Dataset.from_dict({"id": list("abcdef"), "text": ["good", "GOOD", "near", " near", "far", "easy 1"]})
    )
    row = {"query": "what?", "positive_ids": ["a"], "negative_ids": ["c"]}
    assert len(by_label(draw(corpus, row, easy=6).axes[0])["random passage"]) == 2


def test_what_cannot_be_drawn_is_said(angles_corpus):
    with pytest.raises(ValueError, match=r"'negative_ids' is empty in the row with query 'what\?'.*Choose another row"):
        draw(angles_corpus, ROW | {"negative_ids": []})
    with pytest.raises(ValueError, match="'positive_ids' is empty"):
        draw(angles_corpus, ROW | {"positive_ids": None})
    with pytest.raises(KeyError, match="mine first"):
        draw(angles_corpus, {"query": "what?", "positive_ids": ["id good"]})
    with pytest.raises(KeyError, match="'id no', which is not among"):
        draw(angles_corpus, ROW | {"negative_ids": ["id no"]})
    with pytest.raises(ValueError, match="plot_query: easy must be a whole number of at least 0"):
        draw(angles_corpus, easy=-1)
    with pytest.raises(ValueError, match="plot_query: scale must be a finite number greater than 0"):
        draw(angles_corpus, scale=0)
    with pytest.raises(TypeError, match="must be a Corpus"):
        draw("corpus")


# ---- scores --------------------------------------------------------------------------------------------------------


def scored(**more):
    columns = {
        "query_id": ["a", "b", "c"],
        "positive_scores": [[0.9], [0.5, 0.7], []],
        "negative_scores": [[0.95, 0.3], [0.65, 0.55, 0.1], [0.9]],
        "negative_source": [["bm25", "dense"], ["bm25+dense", "dense", "bm25"], ["dense"]],
    }
    return Dataset.from_dict(columns | more)


def test_scores_have_a_panel_for_each_source():
    figure = plot_scores(scored())
    # A query without positives has nothing to be above of.
    assert [title_of(axes) for axes in figure.axes] == [
        "bm25: 67% of the negatives score above the mean of their query's positives",
        "dense: 33% of the negatives score above the mean of their query's positives",
    ]
    for axes in figure.axes:
        for stairs in axes.patches:
            values, edges, _ = stairs.get_data()
            assert values.sum() == pytest.approx(100)
            assert edges[[0, -1]].tolist() == pytest.approx([0.1, 0.95])
    positives, negatives = figure.axes[0].patches
    assert np.count_nonzero(positives.get_data().values) == 3
    assert np.count_nonzero(negatives.get_data().values) == 3
    # Told apart by more than colors.
    assert negatives.get_hatch()
    assert not positives.get_hatch()


def test_scores_of_rows_without_sources_and_by_a_teacher():
    rows = scored().remove_columns("negative_source")
    (axes,) = plot_scores(rows).axes
    assert title_of(axes) == "40% of the negatives score above the mean of their query's positives"
    taught = rows.add_column("negative_teacher_scores", [[0.1, 0.2], [0.9, 0.9, 0.9], []])
    taught = taught.add_column("positive_teacher_scores", [[0.3], [0.5, 0.1], [1.0]])
    (axes,) = plot_scores(taught, by="teacher").axes
    assert title_of(axes).startswith("60% of the negatives")
    assert axes.get_xlabel() == "score by 'teacher'"


def test_only_a_sample_is_read():
    rows = Dataset.from_dict(
        {"query": [str(row) for row in range(100)], "positive_scores": [[0.5]] * 100}
        | {"negative_scores": [[row / 100] for row in range(100)]}
    )

    def heights(**options):
        return plot_scores(rows, sample=10, **options).axes[0].patches[1].get_data().values

    # Each of ten rows is a tenth.
    np.testing.assert_allclose(heights() % 10, 0, atol=1e-9)
    np.testing.assert_array_equal(heights(), heights())
    assert not np.array_equal(heights(), heights(seed=1))


def test_scores_agree_with_the_audit():
    corpus, queries = load_sample("earthquakes")
    mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
    share = audit_negatives(mined, corpus).scores["score"].above
    assert title_of(plot_scores(mined).axes[0]).startswith(f"bm25: {share:.0%} ")


def test_scores_that_are_missing_are_named():
    with pytest.raises(KeyError, match=r"plot_scores needs the column 'negative_teacher_scores'.*score first"):
        plot_scores(scored(), by="teacher")
    with pytest.raises(ValueError, match="none of the 3 rows has scores of a positive and of a negative"):
        plot_scores(scored(negative_scores=[[], [], [0.9]], negative_source=[[], [], ["dense"]]))
    with pytest.raises(TypeError, match=r"dataset must be a Dataset, .*got str"):
        plot_scores("mined")
    with pytest.raises(ValueError, match="sample must be a whole number of at least 1"):
        plot_scores(scored(), sample=0)


# ---- hardness ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audits():
    """Audits whose negatives have certain scores, of which some are relevant."""
    judged = Dataset.from_dict({"query_id": ["q"], "query": ["?"], "positive_ids": [["p", "x", "y"]]})

    def make(scores, ids, judgments=judged):
        rows = {"query_id": ["q"], "query": ["?"], "positive_ids": [["p"]], "negative_ids": [ids]}
        rows |= {"negative_scores": [scores], "positive_scores": [[1.0]], "negative_ranks": [[1, 2, 3, 4]]}
        return audit_negatives(Dataset.from_dict(rows), judgments=judgments)

    return {
        "hard": make([0.9, 0.8, 0.7, 0.6], ["x", "y", "n", "m"]),
        "milder": make([0.8, 0.7, 0.6, 0.5], ["x", "o", "n", "m"]),
        "easy": make([0.5, 0.4, 0.3, 0.2], ["l", "o", "n", "m"]),
        "unjudged": make([0.5, 0.4, 0.3, 0.2], ["l", "o", "n", "m"], judgments=None),
    }


def test_hardness_is_drawn_against_false_negatives(audits):
    figure = plot_hardness({"plain": audits["hard"], "filtered": [audits["milder"], audits["easy"]]}, by="score")
    (axes,) = figure.axes
    plain, filtered = (container.lines[0].get_xydata() for container in axes.containers)
    np.testing.assert_allclose(plain, [[0.75, 50]], rtol=1e-6)
    np.testing.assert_allclose(filtered, [[0.65, 25], [0.35, 0]], rtol=1e-6)
    assert title_of(axes) == "False negatives: 50% (plain) → 0% (filtered)\nMean score: 0.75 → 0.35"
    (bars,) = axes.containers[0].lines[2]
    false = audits["hard"].false_negatives
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [100 * false.low, 100 * false.high])
    assert len({container.lines[0].get_marker() for container in axes.containers}) == 2
    assert "easy: 0%" in title_of(plot_hardness({"easy": audits["easy"]}, by="score").axes[0])


def test_audits_that_cannot_be_drawn_are_named(audits):
    with pytest.raises(ValueError, match=r"the audit of 'hard' has no scores .* by 'teacher', only by \['score'\]"):
        plot_hardness({"hard": audits["hard"]})
    with pytest.raises(ValueError, match=r"the audit of 'b' has no rate of false negatives.*judgments="):
        plot_hardness({"a": audits["hard"], "b": audits["unjudged"]}, by="score")
    with pytest.raises(ValueError, match="no audits to draw"):
        plot_hardness({})
    with pytest.raises(ValueError, match="'c' is an empty list"):
        plot_hardness({"c": []})


# ---- training ------------------------------------------------------------------------------------------------------


def refreshed(step, mrr, replaced):
    return {"step": step, "epoch": 0.1, "refresh_generation": 1.0, "refresh_mrr": mrr, "refresh_replaced": replaced}


HISTORY = [
    refreshed(0, 0.5, 1.0),
    {"step": 5, "loss": 2.0, "masked_in_batch": 0.02, "masked_mined": 0.1, "refresh_mrr": 0.5},
    refreshed(8, 0.75, 0.25),
    # Averaged over a switch.
    {"step": 10, "loss": 1.0, "masked_in_batch": 0.01, "masked_mined": 0.05, "refresh_mrr": 0.6},
    {"step": 10, "eval_loss": 1.5},
    {"step": 10, "train_runtime": 3.0},
]


def test_the_course_of_a_training():
    figure = plot_training(HISTORY)
    ranks, replaced, masked = figure.axes

    def curves(axes):
        return [line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() == "-"]

    assert curves(ranks) == [[[0, 0.5], [8, 0.75]]]
    assert curves(replaced) == [[[0, 100], [8, 25]]]
    assert curves(masked) == [[[5, 2], [10, 1]], [[5, 10], [10, 5]]]
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [0, 8]
    assert title_of(ranks) == "MRR of the training queries: 0.50 → 0.75\nThe last refresh replaced 25% of the negatives"
    assert masked.get_xlabel() == "optimizer step"


def test_a_training_that_logs_less():
    (masked,) = plot_training([HISTORY[1]]).axes
    assert (
        title_of(masked) == "In the end the loss masks 2.0% of other rows' passages and 10% of the rows' own negatives"
    )
    (replaced,) = plot_training([{"step": 3, "refresh_replaced": 0.5, "refresh_generation": 1.0}]).axes
    assert title_of(replaced) == "The last refresh replaced 50% of the negatives"
    with pytest.raises(ValueError, match=r"has none of .*only \['loss', 'step'\].*RefreshNegatives"):
        plot_training([{"step": 1, "loss": 2.0}])


# ---- looks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(static_model):
    corpus, queries = load_sample()
    queries = queries.select(range(0, len(queries), 20))
    miners = {"bm25": BM25Negatives(corpus, k=20), "dense": DenseNegatives(corpus, static_model, k=20)}
    return corpus, queries.map(FuseNegatives(miners), batched=True)


def test_all_can_be_read(real, static_model, audits, monkeypatch):
    corpus, rows = real
    long = "a name that is far too long for a legend with three names to a line, and costs $5 or $6"
    figures = [
        plot_scores(rows, by="dense"),
        plot_hardness({"plain": audits["hard"], long: [audits["milder"], audits["easy"]]}, by="score"),
        plot_training(HISTORY),
        *(plot_query(rows[row], corpus, static_model) for row in (0, 7)),
        plot_query(rows[3] | {"query": "$x_1 " * 60}, corpus, static_model, easy=0),
    ]
    for figure in figures:
        # Fewer dots are drawn sooner, and texts keep their places.
        figure.set_dpi(100)
        assert figure.get_size_inches()[0] == 8
        check_legible(figure, monkeypatch)


@pytest.mark.parametrize(("style", "paper"), [("default", "white"), ("dark_background", "black")])
def test_the_style_in_use_sets_text_and_paper(style, paper, angles_corpus):
    with matplotlib.style.context(style):
        figures = [draw(angles_corpus), plot_scores(scored()), plot_training(HISTORY)]
    ink = {"white": "black", "black": "white"}[paper]
    for figure in figures:
        assert figure.get_facecolor() == to_rgba(paper)
        for text in figure.findobj(Text):
            assert to_rgba(text.get_color()) == to_rgba(ink)


def test_a_picture_shows_itself_in_a_notebook_without_pyplot():
    code = (
        "import sys, hnm_datasets.audit.run; assert 'matplotlib' not in sys.modules;"
        "from hnm_datasets.pictures.training import plot_training;"
        "figure = plot_training([{'step': 1, 'refresh_mrr': 0.5}]);"
        "assert figure._repr_png_()[:4] == b'\\x89PNG'; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_picture_pickles():
    figure = pickle.loads(pickle.dumps(plot_training(HISTORY)))
    assert title_of(figure.axes[0]).startswith("MRR")
    assert figure._repr_png_()[:4] == b"\x89PNG"


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch, angles_corpus, audits):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name, make in (
        ("plot_query", lambda: draw(angles_corpus)),
        ("plot_scores", lambda: plot_scores(scored())),
        ("plot_hardness", lambda: plot_hardness(audits, by="score")),
        ("plot_training", lambda: plot_training(HISTORY)),
    ):
        with pytest.raises(ImportError, match=rf"{name} needs matplotlib: pip install 'hnm-datasets\[plots\]'"):
            make()
