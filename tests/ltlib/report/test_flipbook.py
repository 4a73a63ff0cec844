import base64

import matplotlib.pyplot as plt
import pytest
from browser import chromium, needs_chromium
from bs4 import BeautifulSoup

from ltlib.errors import ConfigError
from ltlib.report.flipbook import flipbook


def draw(value):
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.plot([0, value])
    return fig


@pytest.fixture
def shown(monkeypatch):
    said = []
    monkeypatch.setattr("IPython.display.display", said.append)
    flipbook(draw, "a < b", (0.5, 1, 2), 1)
    assert not plt.get_fignums()
    (html,) = said
    return html.data


def test_there_is_a_frame_for_each_value_and_one_is_seen(shown):
    page = BeautifulSoup(shown, "html.parser")
    frames = page.select("img")
    assert [frame["data-shown"] for frame in frames] == ["0.5", "1", "2"]
    assert [frame.has_attr("hidden") for frame in frames] == [True, False, True]
    assert frames[2]["alt"] == "The picture for a < b = 2"
    pngs = [base64.b64decode(frame["src"].partition(",")[2]) for frame in frames]
    assert all(png[1:4] == b"PNG" for png in pngs)
    assert len(set(pngs)) == 3
    assert page.input["value"] == "1"
    assert page.output.text == "1"
    assert "http" not in shown


def test_a_start_that_is_none_of_the_values_is_refused():
    with pytest.raises(ConfigError, match=r"start = 3: expected one of 1, 2"):
        flipbook(draw, "a", (1, 2), 3)


@needs_chromium
def test_the_slider_turns_the_pages(shown):
    with chromium() as browser:
        page = browser.new_page()
        page.set_content(shown)
        page.locator("input").fill("2")
        assert page.locator("output").inner_text() == "2"
        seen = page.locator("img").evaluate_all("frames => frames.map(frame => !frame.hidden)")
        assert seen == [False, False, True]
