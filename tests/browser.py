"""Headless Chromium: pages as their readers see them."""

import contextlib
import os
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed")

# texts whose contrast with what is behind them is below 4.5 : 1 (WCAG AA)
FAINT = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const clear = (element) => parts(getComputedStyle(element).backgroundColor)[3] === 0;
  const faint = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest(".tile")) continue;
    let behind = element;
    while (behind.parentElement && clear(behind)) behind = behind.parentElement;
    const [low, high] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(light).sort((a, b) => a - b);
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
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


def watch(page):
    """The list of what goes wrong from now on: errors, warnings, failed requests, requests to anything but files."""
    faults = []
    page.on("console", lambda message: message.type in ("error", "warning") and faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url[:100]}"))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or faults.append(f"asked for {request.url}"))
    return faults


def read_book(index, names):
    """Open a book from its files on a phone and on a desk, in light and in dark, and click through its pages, ``names``."""
    papers = set()
    with chromium() as browser:
        for scheme in ("light", "dark"):
            for width, height in ((360, 740), (1280, 800)):
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page = context.new_page()
                faults = watch(page)
                page.goto(index.as_uri())
                look(page)
                papers.add((scheme, page.evaluate(PAPER)))
                seen = [follow(page, page.locator("main ol a").first)]
                look(page)
                while page.locator("a[rel=next]").count():
                    seen.append(follow(page, page.locator("a[rel=next]")))
                    look(page)
                assert [url.rpartition("/")[2] for url in seen] == [f"{name}.html" for name in names]
                if len(seen) > 1:
                    assert follow(page, page.locator("a[rel=prev]")) == seen[-2]
                assert follow(page, page.locator(".pager a[href='index.html']")) == index.as_uri()
                search(page)
                switch(page)
                assert faults == []
                context.close()
    assert len(papers) == len({paper for _, paper in papers}) == 2


def follow(page, link):
    address = link.evaluate("a => a.href")
    link.click()
    page.wait_for_url(lambda url: url == address)
    return address


def look(page):
    """No sideways scrolling, nothing faint, every picture shown and described."""
    scrolled, shown = page.evaluate(WIDTH)
    assert scrolled <= shown, page.url
    assert page.evaluate(FAINT) == [], page.url
    assert page.evaluate("() => [...document.images].filter((i) => !i.complete || !i.naturalWidth).length") == 0
    assert page.locator("main figure img:not([alt]), main figure img[alt='']").count() == 0
    assert page.locator("main").count() == page.locator("h1").count() == 1


def search(page):
    """The last heading of the last page is found from the index, and its page opens there."""
    address, title, heading = page.evaluate("() => headings.at(-1)")
    box = page.get_by_role("searchbox")
    box.fill("no such heading")
    assert page.get_by_role("status").inner_text() == "0 found"
    box.fill(f"{title} {heading}".upper())
    assert follow(page, page.locator("header li a").last).endswith(address)
    assert page.locator(":target").inner_text() == heading
    box.fill("e")
    box.press("Escape")
    assert page.locator("header li").count() == 0
    box.fill(title)
    box.press("Enter")
    page.wait_for_url(lambda url: "#" not in url)


def switch(page):
    """The other scheme, which is remembered on the next page."""
    before = page.evaluate(PAPER)
    page.get_by_role("button", name="Switch between dark and light").click()
    after = page.evaluate(PAPER)
    assert before != after
    follow(page, page.locator("header nav a"))
    assert page.evaluate(PAPER) == after
    look(page)
