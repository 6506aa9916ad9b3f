import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from task2vec.style import COLOURS, MARKERS, in_style


@in_style
def lines():
    figure = Figure()
    axes = figure.subplots()
    for i in range(len(COLOURS)):
        axes.plot([0, 1], [i, i + 1])
    return figure


def test_figures_look_alike_whatever_the_users_settings_are_and_leave_those_alone():
    with matplotlib.rc_context({"axes.grid": False, "font.size": 25, "axes.spines.top": True}):
        before = dict(matplotlib.rcParams)
        axes = lines().axes[0]
        assert dict(matplotlib.rcParams) == before
    assert not axes.spines["top"].get_visible()
    assert axes.xaxis.get_gridlines()[0].get_visible()
    assert axes.get_xticklabels()[0].get_fontsize() == 10
    assert [(line.get_color(), line.get_marker()) for line in axes.lines] == list(zip(COLOURS, MARKERS, strict=True))


def test_colours_stay_apart_without_red_and_green_vision():
    """Deuteranopia as a projection of linear RGB (Machado et al. 2009, severity 1)."""
    matrix = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    seen = np.array([matrix @ np.array(to_rgb(colour)) ** 2.2 for colour in COLOURS]).clip(0, 1) ** (1 / 2.2)
    apart = np.linalg.norm(seen[:, None] - seen, axis=2)
    assert apart[~np.eye(len(COLOURS), dtype=bool)].min() > 0.15
