"""The picture of a pilot shows what was found, can be read, and takes no name for mathematics."""

from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from hnm_datasets import plot_pilot
from hnm_datasets.audit.false_negatives import FalseNegatives
from hnm_datasets.piloting.intervals import Difference
from hnm_datasets.piloting.measured import Hardness
from hnm_datasets.piloting.report import Pilot, Trial


def make_trial(name, place, *, trained=True, known=True, **more):
    rate = FalseNegatives("judgments", 0.1 * place, 0.05 * place, 0.2 * place, 1, 10, 10, "judged relevant")
    return Trial(
        name,
        "code",
        dynamic=False,
        candidates=4.0,
        hardness=Hardness(0.2 * place, 0.1, 0.3),
        false_negatives=rate if known else None,
        whole_seconds=10.0**place,
        measures={"nDCG@10": 0.5 + 0.01 * place} if trained else None,
        difference=None if place == 1 else Difference(-0.02, -0.05, 0.01, 0.015),
        **more,
    )


def make_pilot(trials, recommended="first"):
    return Pilot(
        trials=tuple(trials), recommended=recommended, sentence="Take it.", rows=100, sample=50, trained=50,
        held_out=50, passages=1000, searched=1000, negatives=4, steps=10, seeds=2, student="a student",
        untrained={"nDCG@10": 0.4}, measure="nDCG@10", scored_by="the student", false_by="by the judgments", overlap={},
    )  # fmt: skip


def texts_of(figure):
    drawn, draw = [], Text.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", lambda text, renderer: (drawn.append(text), draw(text, renderer))[1])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    boxes = [(text, text.get_window_extent(canvas.get_renderer())) for text in drawn if text.get_text().strip()]
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y0 >= 0, text
        assert box.y1 <= figure.bbox.y1, text
    return [text.get_text() for text, _ in boxes]


def points_of(axes):
    """The middles of what has an error bar."""
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line, *_ in axes.containers]


def test_points_are_where_the_numbers_say():
    figure = plot_pilot(make_pilot([make_trial("first", 1), make_trial("second", 2)]))
    mined, trained = figure.axes
    assert points_of(mined) == [pytest.approx((20, 10)), pytest.approx((40, 20))]
    assert points_of(trained) == [pytest.approx((10, 51)), pytest.approx((100, 52))]
    # The interval is that of the difference to the best, which has none itself.
    _, _, (bars,) = trained.containers[1]
    ((_, low), (_, high)) = bars.get_segments()[0]
    assert (low, high) == pytest.approx((49, 55))
    texts = texts_of(figure)
    assert {"first", "second", "Recommended: first"} <= set(texts)
    assert sum("nDCG@10" in text for text in texts) == 1


def test_a_panel_of_which_nothing_is_known_is_left_out():
    untrained = [make_trial("first", 1, trained=False), make_trial("second", 2, trained=False)]
    assert [axes.get_ylabel() for axes in plot_pilot(make_pilot(untrained)).axes] == ["false negatives (%)"]
    unknown = [make_trial("first", 1, known=False), make_trial("second", 2, known=False)]
    assert [axes.get_ylabel() for axes in plot_pilot(make_pilot(unknown)).axes] == ["nDCG@10 (%)"]
    with pytest.raises(ValueError, match=r"nothing to draw.*judgments=.*train=True"):
        plot_pilot(make_pilot([make_trial("first", 1, trained=False, known=False)]))


def test_what_failed_and_what_is_unknown_has_no_point():
    trials = [
        make_trial("first", 1),
        Trial("broken", "code", dynamic=False, error="out of luck"),
        make_trial("in-batch", 2, known=False),
    ]
    figure = plot_pilot(make_pilot(trials, None))
    assert [len(points_of(axes)) for axes in figure.axes] == [1, 2]
    texts = texts_of(figure)
    assert "No strategy is recommended" in texts
    assert "broken" not in texts
    assert "in-batch" in texts


def test_hostile_and_long_names_of_many_strategies_can_be_read():
    names = ["$x_1$ and $", "a\nb", "\\frac{", "name " * 60, "<b>", *(f"strategy number {place}" for place in range(9))]
    trials = [make_trial(name, 1 + place / 10) for place, name in enumerate(names)]
    figure = plot_pilot(make_pilot(trials, names[0]))
    looks = [(one.get_color(), one.get_marker(), one.get_markerfacecolor()) for one in figure.legends[0].get_lines()]
    assert len(set(looks)) == len(names)
    texts = texts_of(figure)
    assert any("x_1" in text for text in texts)
    texts_of(plot_pilot(make_pilot(trials, names[3])))


def test_no_time_at_all_can_be_drawn():
    texts_of(plot_pilot(make_pilot([replace(make_trial("first", 1), whole_seconds=0.0)])))


def test_what_is_no_pilot_is_refused():
    with pytest.raises(TypeError, match=r"expected the result of pilot\(rows, corpus\), got str"):
        plot_pilot("pilot")
