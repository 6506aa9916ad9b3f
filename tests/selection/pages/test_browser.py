"""The pages as a reader uses them, in a real browser."""

import contextlib
import dataclasses

import numpy as np
import pytest

import selection
from adapters import BackboneId
from selection import BackboneFacts, TaskStore
from selection.pages.data import Atlas, AtlasTask, gather
from selection.pages.layout import Layout
from selection.pages.matrix import ordered
from selection.pages.page import page as page_of
from selection.recommendation.fisher_by_block import FisherByBlock
from task2vec.thumbnails import thumbnails_of
from tests.conftest import random_task
from tests.selection.pages.conftest import HOSTILE, SHOWN

DRAWN = """document.getElementById("map").data
    .filter((trace) => trace.customdata && trace.hoverinfo !== "skip").flatMap((trace) => trace.customdata)"""


@pytest.fixture(scope="module")
def atlas(few, target, tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / "atlas.html"
    path.write_text(page_of(gather(few, target=target, advise=False)), "utf-8")
    return path


@contextlib.contextmanager
def opened(chromium, path, **options):
    """The page, drawn; whatever its console complains of, or it asks the network for, is an error."""
    complaints = []
    tab = chromium.new_page(**({"viewport": {"width": 1300, "height": 900}} | options))
    tab.set_default_timeout(60_000)
    tab.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on(
        "request",
        lambda asked: complaints.append(asked.url) if not asked.url.startswith(("file:", "blob:", "data:")) else None,
    )
    tab.goto(path.as_uri())
    tab.wait_for_selector("#map .main-svg, #by-layer .main-svg", state="attached")
    yield tab
    tab.close()
    assert complaints == []


def click_task(tab, name):
    """Click where the map has drawn a task."""
    place = tab.evaluate(
        """name => {
            const map = document.getElementById("map"), full = map._fullLayout;
            for (const trace of map.data) {
                const at = (trace.text ?? []).findIndex((text) => text.startsWith?.(name + ": "));
                if (at < 0) continue;
                const box = map.getBoundingClientRect(), { xaxis: x, yaxis: y } = full;
                return [box.x + x._offset + x.d2p(trace.x[at]), box.y + y._offset + y.d2p(trace.y[at])];
            }
        }""",
        name,
    )
    tab.mouse.move(*place)
    tab.mouse.click(*place)


def test_the_target_is_shown_with_lines_to_its_evidence(chromium, atlas, target):
    with opened(chromium, atlas) as tab:
        assert tab.inner_text("#card h2") == target.task
        assert "Tune " in tab.inner_text("#advice")
        evidence = tab.locator("#advice table").nth(1).locator("button").count()
        drawn = tab.evaluate("document.getElementById('map').data.find((t) => t.mode === 'lines').x.length / 3")
        assert drawn == evidence > 0


def test_clicking_a_point_opens_its_card(chromium, atlas, few):
    with opened(chromium, atlas) as tab:
        tab.evaluate("window.scrollTo(0, 0)")
        click_task(tab, "gtsrb")
        tab.wait_for_function("document.querySelector('#card h2').textContent === 'gtsrb'")
        facts = tab.inner_text("#card dl")
        best = max(t.score for t in few.task("gtsrb").trials)
        assert f"{best:.1%} on test images" in facts
        assert tab.locator("#by-parameters .point").count() == tab.locator("#by-seconds .point").count() > 10
        layers = tab.locator("#layers-table tbody tr").evaluate_all("all => all.map((row) => row.cells[1].textContent)")
        own = few.embeddings(name="gtsrb")[0]
        means = [
            part.mean() for part in np.split(own.fisher, np.cumsum([layer.num_filters for layer in own.layers])[:-1])
        ]
        np.testing.assert_allclose([float(value) for value in layers], means, rtol=0.01)
        nearest = [n.name for n in few.nearest(few.embeddings(name="gtsrb")[0], 4)][1:]
        assert [n for n in tab.locator("#nearest button").all_inner_texts() if n in few.names()][:3] == nearest
        tab.locator("#nearest button").first.click()
        tab.wait_for_function("document.querySelector('#card h2').textContent !== 'gtsrb'")


def test_a_card_shows_thumbnails_with_what_is_on_them(chromium, few, tmp_path):
    store, shown = TaskStore(), thumbnails_of(random_task(40, 5))
    first, second = few.embeddings()[:2]
    labelled = [thumbnail._replace(label=HOSTILE) for thumbnail in shown]
    store.add(dataclasses.replace(first, thumbnails=tuple(labelled)))
    store.add(second)
    path = selection.atlas(store, tmp_path / "pictured.html", progress=False)
    with opened(chromium, path) as tab:
        tab.locator("#list button", has_text=first.task).first.click()
        widths = tab.locator("#pictures img").evaluate_all(
            "async all => { for (const one of all) await one.decode(); return all.map((one) => one.naturalWidth); }"
        )
        assert widths == [32] * 16
        assert tab.locator("#pictures img").first.get_attribute("alt") == f"An image of {HOSTILE}"
        assert tab.title() != "taken"
        tab.locator("#list button", has_text=second.task).first.click()
        assert tab.locator("#pictures").count() == 0


def test_filters_filter_the_map_and_the_list(chromium, atlas, few):
    def shown(tab):
        """What the count says, and how many tasks the map and the list show beside the target."""
        tab.wait_for_timeout(400)
        places = tab.evaluate(DRAWN)
        return tab.inner_text("#count"), len(places) - 1, tab.locator("#list tbody tr").count() - 1

    everything = len(few)
    with opened(chromium, atlas) as tab:
        assert shown(tab) == (f"{everything} of {everything} tasks", everything, everything)
        tab.select_option("#source", "mnist")
        assert shown(tab) == (f"2 of {everything} tasks", 2, 2)
        tab.locator("button[type=reset]").click()
        tab.fill("#classes-from", "40")
        many = sum(len(few.task(name).classes) >= 40 for name in few.names())
        assert shown(tab) == (f"{many} of {everything} tasks", many, many)
        tab.locator("button[type=reset]").click()
        tab.fill("#search", "coil")
        assert shown(tab)[1:] == (1, 1)
        tab.press("#search", "Enter")
        assert tab.inner_text("#card h2") == "coil20"


def test_every_colouring_draws_every_task(chromium, atlas, few):
    with opened(chromium, atlas) as tab:
        choices = tab.locator("#colour option").evaluate_all("all => all.map((one) => one.value)")
        assert len(choices) == 7
        for choice in choices:
            tab.select_option("#colour", choice)
            assert set(tab.evaluate(DRAWN)) == set(range(len(few) + 1)), choice


def test_the_keyboard_is_enough(chromium, atlas):
    with opened(chromium, atlas) as tab:
        tab.keyboard.press("Escape")
        assert tab.locator("#card").is_hidden()
        tab.keyboard.press("/")
        tab.keyboard.type("att_faces")
        tab.wait_for_timeout(300)
        tab.keyboard.press("Enter")
        assert tab.inner_text("#card h2") == "att_faces"
        tab.locator("button[type=reset]").click()
        tab.focus("#map")
        tab.wait_for_timeout(300)
        names = set()
        for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
            tab.keyboard.press(key)
            names.add(tab.inner_text("#card h2"))
        assert len(names) > 1


def test_hostile_names_stay_text(chromium, atlas):
    with opened(chromium, atlas) as tab:
        tab.locator("#list button", has_text="onerror").click()
        assert tab.inner_text("#card h2") == HOSTILE
        click_task(tab, "mnist")
        tab.evaluate("document.querySelector('#matrix').scrollIntoView()")
        tab.hover("#matrix .nsewdrag >> nth=0")
        assert tab.title() != "taken"
        assert tab.locator("img").count() == 0
        ticks = tab.evaluate("[...document.querySelectorAll('#matrix .ytick text')].map((t) => t.textContent)")
        assert any(tick.startswith("</script><img") for tick in ticks)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_narrow_screen_needs_no_sideways_scrolling(chromium, atlas, theme):
    with opened(chromium, atlas, viewport={"width": 360, "height": 740}, color_scheme=theme) as tab:
        tab.locator("#list button", has_text="mnist").first.click()
        tab.wait_for_timeout(500)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        drawn = tab.evaluate("document.querySelector('#map .main-svg').getBoundingClientRect().width")
        assert 200 < drawn <= 360
        assert tab.evaluate("document.documentElement.dataset.theme") == theme
        tab.click("#theme")
        assert tab.evaluate("document.documentElement.dataset.theme") != theme


def test_a_report_is_the_targets_card(chromium, few, target, tmp_path):
    found = selection.recommend(target, few)
    facts = BackboneFacts(BackboneId("vit"), 100, 5, 0.5, (0.2, 0.3, 0.5), (0.8, 0.6, 0.4, 0.7), 0.5, 2.0)
    by_block = FisherByBlock(("patch_embed", "blocks.0", "blocks.1"), (0.2, 0.5, 0.3), (0.3, 0.3, 0.4), (0.1, 0.1, 0.1))
    found = dataclasses.replace(found, facts=facts, fisher=by_block)
    path = selection.report(found, target, few, tmp_path / "report.html")
    with opened(chromium, path) as tab:
        assert found.explain() in tab.inner_text("#advice")
        assert tab.locator("#by-depth .bars .point").count() == 7
        assert tab.locator("#by-block .bars .point").count() == 3
        assert tab.locator("#by-block .scatterlayer .point").count() == 3
        assert tab.locator("#map-section").is_hidden()
        assert tab.locator("#back").count() == 0
        tab.locator("#nearest button").first.click()
        assert tab.inner_text("#card h2") in SHOWN
        tab.click("#back")
        assert tab.inner_text("#card h2") == target.task


def test_a_target_with_a_stored_tasks_name_is_told_apart(chromium, few, tmp_path):
    same = few.embeddings(name="mnist")[0]
    path = tmp_path / "same.html"
    path.write_text(page_of(gather(few, target=same, advise=False)), "utf-8")
    with opened(chromium, path) as tab:
        assert "the target" in tab.inner_text("#card dl")
        tab.locator("#nearest button", has_text="mnist").first.click()
        assert "the target" not in tab.inner_text("#card dl")
        assert tab.inner_text("#card h2") == "mnist"


@pytest.mark.slow
def test_a_hundred_thousand_tasks_can_be_searched(chromium, tmp_path):
    n = 100_000
    points = np.random.default_rng(0).normal(size=(n, 2))
    tasks = tuple(
        AtlasTask(
            f"task {i}",
            f"source {i % 30}" if i % 2 else f"task {i}",  # as where half of the tasks name no source
            (),
            i % 50 + 2,
            (),
            100,
            0.5,
            (points[i, 0], points[i, 1]),
            (),
            (),
            {},
            (),
            None,
        )
        for i in range(n)
    )
    layout = Layout(points, "mds", 0.9, 5, 0.2, 1000)
    found = Atlas(
        "Many", "log_cosine", "p", "montecarlo", 0, ("a",), (), layout, tasks, None, ordered(np.zeros((1, 1))), (0,)
    )
    path = tmp_path / "many.html"
    path.write_text(page_of(found), "utf-8")
    with contextlib.ExitStack() as stack:
        tab = chromium.new_page()
        stack.callback(tab.close)
        tab.set_default_timeout(180_000)
        tab.goto(path.as_uri())
        tab.wait_for_selector("#map .gl-canvas", state="attached")
        assert tab.inner_text("#count") == "100,000 of 100,000 tasks"
        assert tab.evaluate("document.getElementById('map').data.length") == 7 * 8 + 1
        others = tab.evaluate("document.getElementById('map').data[0]")
        assert (others["name"], len(others["x"]), others["marker"]["line"]["width"]) == ("49,959 others", 49_959, 1)
        assert tab.locator("#source option").count() == 501
        tab.fill("#search", "task 4242")
        tab.wait_for_function("document.getElementById('count').textContent.startsWith('11 of')")
        tab.press("#search", "Enter")
        assert tab.inner_text("#card h2") == "task 4242"
