"""Figures are drawn from the tables: every one, in every format, the same bytes each time, in every odd case."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from ntkrun.evidence.figures import draw
from ntkrun.evidence.figures.draw import draw_all
from ntkrun.evidence.figures.pieces import width_colours
from ntkrun.evidence.figures.saving import ALWAYS, ON_REQUEST, STYLE, saved
from tests.evidence.synthetic import tables

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
AGAINST_WIDTH = {"kernel_drift", "weight_drift", "loss"}
OVER_TIME = {"kernel_drift_time", "weight_drift_time", "loss_time"}


def _kernels(run_id: str) -> Mapping[str, np.ndarray]:
    kernel = np.arange(16.0).reshape(4, 4, 1, 1)
    return {"steps": np.array([0, 100]), "ntk": np.stack([kernel, kernel + 1])}


def _drawn(made: Tables, kernels: object = _kernels) -> dict[str, Figure]:
    return {stem: figure for stem, figure, _ in draw_all(*made, kernels)}  # type: ignore[arg-type]


def test_every_figure_is_drawn_and_labelled() -> None:
    drawn = {stem: (figure, caption) for stem, figure, caption in draw_all(*tables({64: 3, 128: 3, 256: 3}), _kernels)}
    assert set(drawn) == AGAINST_WIDTH | OVER_TIME | {"kernel"}
    for stem, (figure, caption) in drawn.items():
        assert caption
        assert "digits, N = 4, L = 2, relu" in figure.get_suptitle(), stem
        for ax in figure.axes:
            assert stem == "kernel" or (ax.get_xlabel() and (ax.get_ylabel() or stem == "weight_drift_time"))


def test_kernel_drift_shows_every_seed_the_means_and_the_fit() -> None:
    runs, steps, layers = tables({64: 3, 128: 3, 256: 3}, slope=-1.0, scatter=0.05)
    (ax,) = _drawn((runs, steps, layers))["kernel_drift"].axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    seeds, *_ = ax.lines
    sups = steps.groupby("run_id", sort=False)["kernel_drift"].max()
    assert sorted(seeds.get_ydata()) == pytest.approx(sorted(sups))
    (entry,) = ax.get_legend().get_texts()
    assert "slope −" in entry.get_text()
    (bars,) = ax.containers
    means = sups.groupby(runs.set_index("run_id")["network.width"]).mean()
    assert bars.lines[0].get_ydata() == pytest.approx(means)
    fit = ax.lines[-1]
    slope = np.diff(np.log(fit.get_ydata())) / np.diff(np.log(fit.get_xdata()))
    assert slope == pytest.approx(-1, abs=0.15)  # the line drawn is the fit of this sample


def test_the_same_tables_give_the_same_bytes() -> None:
    one, two = (saved(_drawn(tables({64: 2, 128: 2}))["loss"], (*ALWAYS, *ON_REQUEST)) for _ in range(2))
    assert one == two
    assert one["png"][1:4] == b"PNG"
    assert one["pdf"][:4] == b"%PDF"
    assert b"CreationDate" not in one["pdf"]


def _of_two_settings() -> Tables:
    parts = [tables({64: 2, 128: 2}, **{"network.activation": name}) for name in ("relu", "erf")]
    return tuple(pd.concat(part, ignore_index=True) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def test_workers_save_the_same_bytes_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for cores in (1, 2):
        monkeypatch.setattr(draw, "usable_cores", lambda cores=cores: cores)
        files.append(draw.save_all(*_of_two_settings(), _kernels, ALWAYS))
    assert files[0] == files[1]
    assert [stem for stem, *_ in files[0]] == [stem for stem, *_ in draw_all(*_of_two_settings(), _kernels)]


def test_one_width_has_the_figures_over_time_alone() -> None:
    assert set(_drawn(tables({64: 2}), lambda run_id: None)) == OVER_TIME


def test_widths_a_layer_have_the_figures_over_time_alone() -> None:
    assert set(_drawn(tables({"[4, 8]": 2, "[8, 16]": 2}), lambda run_id: None)) == OVER_TIME


def test_a_drift_of_zero_has_no_place_on_a_logarithmic_axis() -> None:
    runs, steps, layers = tables({64: 2, 128: 2})
    steps["kernel_drift"] = 0.0
    figure = _drawn((runs, steps, layers))["kernel_drift"]
    assert "no slope" in figure.axes[0].get_legend().get_texts()[0].get_text()
    steps["weight_drift"] = 0.0  # nothing was trained
    assert set(_drawn((runs, steps, layers))) == {"loss", "kernel"}


def test_a_width_has_one_colour_everywhere_and_wider_ones_are_lighter() -> None:
    """In grey they are told apart by their lightness (relative luminance, Rec. 709)."""
    narrow, wide = width_colours([64, 256, 1024]), width_colours([1024, 2048, 256, 256])
    assert narrow[256] == wide[256]
    assert narrow[1024] == wide[1024]
    assert set(width_colours(["[4, 8]", "[8, 16]"])) == {"[4, 8]", "[8, 16]"}
    grey = [np.dot(width_colours([n])[n][:3], (0.2126, 0.7152, 0.0722)) for n in (16, 64, 256, 1024, 4096, 10**6)]
    assert (np.diff(grey[:-1]) > 0.05).all()
    assert grey[-1] == grey[-2] < 0.85  # still seen on white


def test_lines_over_time_show_the_seeds_as_a_band() -> None:
    runs, steps, layers = tables({64: 3, 128: 3}, scatter=0.2)
    (ax,) = _drawn((runs, steps, layers))["kernel_drift_time"].axes
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    drifts = steps[steps["run_id"].isin(runs[runs["network.width"] == 64]["run_id"])]["kernel_drift"]
    assert (band.min(), band.max()) == pytest.approx((drifts.min(), drifts.max()))


def test_letters_are_as_wide_in_pixels_as_in_vectors() -> None:
    """One layout serves every format: nothing that fits in one is cut off in another. Hinted, they are 3 % apart; a
    pixel of 200 an inch at either end remains."""
    text, font = "kernel-gradient-descent, train (width 256, activation relu)", FontProperties(size=7)
    with mpl.rc_context(fname=STYLE):
        in_pixels, *_ = RendererAgg(10, 10, 200).get_text_width_height_descent(text, font, False)
        in_points, *_ = TextToPath().get_text_width_height_descent(text, font, False)
    assert in_pixels / 200 == pytest.approx(in_points / 72, abs=2 / 200)


def test_nothing_is_cut_off_and_no_two_axes_touch() -> None:
    """Layout is found in one pass, from axes of another size: what stands beside them must still fit after it."""
    runs, steps, layers = tables({64: 3, 128: 3, 256: 3}, scatter=0.3)
    for stem, figure in _drawn((runs, steps, layers)).items():
        boxes = [ax.get_tightbbox() for ax in figure.axes if ax.get_visible()]
        boxes += [legend.get_window_extent() for legend in figure.legends]
        for k, box in enumerate(boxes):
            assert min(box.x0, box.y0) >= 0, stem
            assert (box.x1 <= figure.bbox.x1, box.y1 <= figure.bbox.y1) == (True, True), stem
            assert not any(box.overlaps(other) for other in boxes[:k]), stem


def test_a_file_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    figure, drawn = _drawn(tables({64: 2, 128: 2}))["loss"], []
    whole = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: (drawn.append(1), whole(self, renderer)))
    saved(figure, ALWAYS)
    assert len(drawn) == len(ALWAYS)


def test_groups_have_figures_of_their_own() -> None:
    parts = [tables({64: 2, 128: 2}, **{"network.activation": name}) for name in ("relu", "erf")]
    runs, steps, layers = (pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True))
    drawn = _drawn((runs, steps, layers), lambda run_id: None)
    assert set(drawn) == {f"{stem}_{k}" for stem in AGAINST_WIDTH | OVER_TIME for k in (0, 1)}
    assert "erf" in drawn["loss_1"].get_suptitle()


def test_runs_that_diverged_draw_no_level_and_break_nothing() -> None:
    runs, steps, layers = tables({64: 2, 128: 2})
    runs["status"] = "diverged"
    assert AGAINST_WIDTH.isdisjoint(_drawn((runs, steps, layers), lambda run_id: None))
    assert _drawn((runs.iloc[:0], steps.iloc[:0], layers.iloc[:0])) == {}


def test_a_prediction_that_diverges_leaves_the_figure() -> None:
    """A linearised network past its edge of stability reaches 1e306, then infinity, where no axis can follow."""
    runs, steps, layers = tables({64: 3, 128: 3, 256: 3})
    growth = np.exp(np.linspace(0, 706, steps["step"].nunique()))
    steps["linear_loss"] = steps["step"].map(dict(zip(sorted(steps["step"].unique()), growth, strict=True)))
    steps.loc[steps["step"] == steps["step"].max(), "linear_loss"] = np.inf
    for name in ("flow_loss", "limit_loss", "test_linear_loss", "test_flow_loss", "test_limit_loss"):
        steps[name] = steps["loss"]
    steps["test_loss"] = steps["loss"]
    for ax in _drawn((runs, steps, layers))["flows_time"].axes[:2]:
        assert ax.get_ylim()[1] < 1e5 * steps["loss"].max()


def test_flows_are_drawn_where_they_were_measured() -> None:
    """The narrowest and the widest network, training and test loss, four lines each; no figure without the columns."""
    runs, steps, layers = tables({64: 2, 128: 2, 256: 2})
    assert "flows_time" not in {stem for stem, *_ in draw_all(runs, steps, layers, lambda run_id: None)}
    for k, flow in enumerate(("linear", "flow", "limit")):
        for prefix in ("", "test_"):
            steps[f"{prefix}{flow}_loss"] = steps[f"{prefix}loss"] * (1 + k)
    (figure,) = [f for stem, f, _ in draw_all(runs, steps, layers, lambda run_id: None) if stem == "flows_time"]
    assert [ax.get_title() for ax in figure.axes] == ["width 64", "width 256"] * 2
    for ax in figure.axes:
        first = [line.get_ydata()[0] for line in ax.lines]
        assert np.allclose(first, [first[0], first[0], 2 * first[0], 3 * first[0]])
    steps["limit_loss"] = steps["test_limit_loss"] = np.nan  # as without a limit kernel
    assert "flows_time" in {stem for stem, *_ in draw_all(runs, steps, layers, lambda run_id: None)}
