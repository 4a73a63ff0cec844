"""Headless Chromium: pages as their readers see them."""

import contextlib
import itertools
import os
import shutil

import pytest

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed"
)

# texts whose contrast with what is behind them is below 4.5 : 1 (WCAG AA),
# but for the plus sign of "Ctrl + K"
FAINT = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const clear = (element) => parts(getComputedStyle(element).backgroundColor)[3] === 0;
  const faint = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const seen = element.checkVisibility({opacityProperty: true, visibilityProperty: true});
    const plus = element.matches(".search-button__kbd-shortcut");
    if (!texts.currentNode.data.trim() || !seen || plus) continue;
    let behind = element;
    while (behind.parentElement && clear(behind)) behind = behind.parentElement;
    const [low, high] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
      .map(light).sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.add(element.outerHTML.slice(0, 100));
  }
  return [...faint];
}"""
WIDTH = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
PAPER = "() => getComputedStyle(document.body).backgroundColor"


@contextlib.contextmanager
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield browser
        browser.close()


def watch(page):
    """What goes wrong from now on: errors, warnings, failed requests, requests but for files."""
    faults = []
    page.on(
        "console",
        lambda message: message.type in ("error", "warning") and faults.append(message.text),
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url[:100]}"))
    page.on(
        "request",
        lambda request: (
            request.url.startswith(("file:", "data:")) or faults.append(f"asked for {request.url}")
        ),
    )
    return faults


PHONE, DESK = (360, 740), (1280, 800)
VIEWS = tuple(itertools.product(("light", "dark"), (PHONE, DESK)))


def read_book(index, names, views=VIEWS):
    """Open a book from its files and click through its pages, ``names``.

    views: of them both in light and in dark, (scheme, (width, height)).
    """
    papers = set()
    with chromium() as browser:
        for scheme, (width, height) in views:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            page = context.new_page()
            faults = watch(page)
            page.goto(index.as_uri())
            look(page)
            papers.add((scheme, page.evaluate(PAPER)))
            seen = []
            while (following := page.locator("a.right-next")).count():
                seen.append(follow(page, following))
                look(page)
            made = [url.removeprefix(f"{index.parent.as_uri()}/") for url in seen]
            assert sorted(made) == sorted(f"{name}.html" for name in names)
            assert follow(page, page.locator("a.left-prev")) == [index.as_uri(), *seen][-2]
            page.goto(index.as_uri())
            assert follow(page, page.locator("main dt a").first) == seen[0]
            download(page)
            search(page)
            switch(page, index, "dark" if scheme == "light" else "light")
            assert faults == []
            context.close()
    assert len(papers) == len({paper for _, paper in papers}) == 2


def follow(page, link):
    address = link.evaluate("a => a.href")
    link.click()
    page.wait_for_url(lambda url: url == address)
    return address


def look(page):
    """No sideways scrolling, nothing faint, pictures shown and described, formulas read."""
    page.evaluate("() => window.MathJax && MathJax.startup.promise.then(() => 0)")
    scrolled, shown = page.evaluate(WIDTH)
    assert scrolled <= shown, page.url
    faint = page.evaluate(FAINT)
    assert faint == [], (page.url, faint)
    assert (
        page.evaluate(
            "() => [...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
        )
        == 0
    )
    assert page.locator("main img:not([alt]), main img[alt='']").count() == 0
    assert page.locator("main").count() == page.locator("h1:visible").count() == 1
    assert page.locator("mjx-merror").count() == 0, page.url
    assert page.locator("main .math").count() == page.locator("main .math mjx-container").count()


def download(page):
    """The button leads to the page's notebook; read from a folder, a browser shows the file."""
    page.locator(".dropdown-download-buttons > button").click()
    with page.expect_popup() as opened:
        page.locator("a.btn-download-source-button").click()
    name = page.url.rpartition("/")[2].replace(".html", ".ipynb")
    assert opened.value.url.endswith(f"/_sources/{name}")
    assert opened.value.locator("body").inner_text().startswith("{")
    opened.value.close()


def search(page):
    """A page is found by its text, and opens."""
    heading = page.locator("main h1:visible").inner_text().rstrip("#")
    page.keyboard.press("Control+k")
    page.locator("input[type=search]:visible").fill(heading)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "search.html" in url)
    found = page.locator("#search-results li a").first
    found.wait_for()
    look(page)
    found.click()
    page.wait_for_url(lambda url: "search.html" not in url)
    assert page.locator("main h1:visible").inner_text().rstrip("#") == heading


def switch(page, index, scheme):
    """The other scheme, which is remembered on the next page."""
    before = page.evaluate(PAPER)
    page.locator(".theme-switch-button:visible").first.click()
    page.locator(f".theme-change-button[data-mode={scheme}]:visible").click()
    after = page.evaluate(PAPER)
    assert before != after
    page.goto(index.as_uri())
    assert page.evaluate(PAPER) == after
    look(page)
