"""The page in a real browser (Debian's chromium): read, leafed, played, refreshed, printed; by mouse, keyboard, and
without scripts."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("playwright", reason="playwright is not installed (dependency group `dev`)")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from monitor.command_body import Answer
from monitor.journal import Journal
from monitor.page_process import endpoints_up
from monitor.vocabulary import Place
from monitor.web import virtual
from tests.house import FakeClock, new_metrics
from tests.pages import START, commands_over, filled, key, page_config, wells
from tests.programs import program

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)  # a busy machine; what holds is seen at once

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
WELLS = tuple(str(number) for number in range(1, 13))
EMBRYO = f"/page/embryo/inc1/D1/2/{key(0)}"
VIEWS = ("/page/incubator/inc1", EMBRYO, "/page/alerts", "/page/system", "/page/words")
SIZES = {"tablet": (820, 1180), "desk": (1440, 1000), "phone": (400, 800)}
# WCAG 2.2 contrast of every text against what is behind it, in the browser's own colours; SVG and pictures apart
CONTRAST = """
() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *:not(svg *)")) {
    const words = [...node.childNodes].filter((one) => one.nodeType === 3 && one.textContent.trim());
    if (!words.length || !node.getClientRects().length || node.closest(".sr, .skip")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(1)} ${node.className || node.tagName}: ${words[0].textContent.trim()}`);
  }
  return poor;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = program("chromium", "chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()


@contextmanager
def served(
    root: Path, places: list[Place], hours: float = 118.0, blind_first: bool = False
) -> Iterator[tuple[Journal, str]]:
    """The page behind the daemon's own server, with its own commands; the daemon's loop is left out."""
    journal, _ = filled(root, places, hours, blind_first=blind_first)
    metrics = new_metrics(FakeClock())
    metrics.declare(["inc1", "inc2"], [])
    commands = commands_over(journal)

    def submit(name: str, payload: bytes, source: str) -> Future[Answer]:
        answer: Future[Answer] = Future()
        answer.set_result(commands.execute(name, payload, source)[0])
        return answer

    config = page_config(root, blind_first, page=True)
    with endpoints_up(config, metrics.registry, dict, submit) as endpoints:
        yield journal, endpoints.url
    journal.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Journal, str]]:
    """Two dishes, an alert, a result of day 5; tests of this module may add to it."""
    root = tmp_path_factory.mktemp("site")
    with served(root, [*wells(*WELLS), *wells("1", "3", dish="D2")]) as (journal, url):
        virtual.raise_alert(journal, f"inc1/D1/3/{key(0)}", START)
        latest = journal.latest_reading(f"inc1/D1/2/{key(0)}", key(118))
        assert latest is not None
        overlay = next((root / "inc" / "D1" / "2").glob("*_F0.jpg")).read_bytes()
        virtual.grade(journal, f"inc1/D1/2/{key(0)}", latest, overlay, root / "store", START)
        yield journal, url


class Tab:
    """A page of the browser that notes everything that went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.faults: list[str] = []
        self.elsewhere: list[str] = []
        page.on("pageerror", lambda fault: self.faults.append(str(fault)))
        page.on("console", lambda line: self.faults.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(url) else self.elsewhere.append(request.url))

    def go(self, path: str) -> Page:
        """Again and again while the page process is coming up."""
        for _ in range(200):
            answer = self.page.goto(self.url + path)
            if answer is not None and answer.status != 503:
                break
            threading.Event().wait(0.1)
        self.faults.clear()
        self.page.reload(wait_until="networkidle")
        return self.page


@pytest.fixture
def tab(browser: Browser, site: tuple[Journal, str]) -> Iterator[Callable[..., Tab]]:
    opened = []

    def new(size: str = "desk", **settings: object) -> Tab:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)  # type: ignore[arg-type]
        opened.append(context)
        return Tab(context.new_page(), site[1])

    yield new
    for context in opened:
        context.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", VIEWS)
def test_every_view_is_whole_at_every_size_and_asks_nobody_else(tab: Callable[..., Tab], path: str, size: str) -> None:
    one = tab(size)
    page = one.go(path)
    assert one.faults == [] and one.elsewhere == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it would have to be pushed sideways"
    assert page.evaluate("[...document.images].every((one) => one.loading === 'lazy' || one.naturalWidth > 0)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", VIEWS)
def test_every_text_stands_out_from_what_is_behind_it(tab: Callable[..., Tab], path: str, scheme: str) -> None:
    assert tab(color_scheme=scheme).go(path).evaluate(CONTRAST) == []


def test_planes_and_frames_are_leafed_through_by_keys(tab: Callable[..., Tab]) -> None:
    page = tab().go(EMBRYO)
    caption = page.locator("#caption")
    expect(caption).to_contain_text("118.0 h · frame 60 of 60 · plane 0 µm (sharpest)")
    page.keyboard.press("ArrowUp")
    expect(caption).to_contain_text("plane +15 µm")
    page.keyboard.press("ArrowLeft")
    expect(caption).to_contain_text("116.0 h · frame 59 of 60 · plane +15 µm")
    expect(page.locator("#shown")).to_have_attribute("src", re.compile(f"{key(116)}/15.jpg"))
    expect(page.locator('.planes a[aria-current="true"]')).to_have_text("+15")
    page.keyboard.press("Home")
    expect(caption).to_contain_text("0.0 h · frame 1 of 60")
    assert page.locator(".cursor").get_attribute("x1") == "74"
    page.keyboard.press("End")
    expect(caption).to_contain_text("frame 60 of 60")


def test_the_time_lapse_is_scrubbed_and_played(tab: Callable[..., Tab]) -> None:
    page = tab("tablet").go(EMBRYO)
    page.locator("#frame").fill("30")
    expect(page.locator("#caption")).to_contain_text("60.0 h · frame 31 of 60")
    page.locator("#frame").fill("55")
    page.locator("#play").click()
    expect(page.locator("#play")).to_have_text("Pause")
    expect(page.locator("#caption")).to_contain_text("frame 60 of 60")
    expect(page.locator("#play")).to_have_text("Play")


def test_a_click_into_the_course_leads_to_that_frame(tab: Callable[..., Tab]) -> None:
    page = tab().go(EMBRYO)
    box = page.locator(".course").bounding_box()
    assert box is not None
    left, right = 74 / 1000, 1 - 20 / 1000
    page.mouse.click(box["x"] + box["width"] * (left + (right - left) * 48.4 / 120), box["y"] + 40)
    expect(page.locator("#caption")).to_contain_text("48.0 h")


def test_all_of_the_dish_is_reached_and_opened_by_the_keyboard(tab: Callable[..., Tab]) -> None:
    page = tab().go("/page/incubator/inc1")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    for number in range(1, 13):
        page.keyboard.press("Tab")
        expect(page.locator(f"#w-D1-{number} a.whole")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Dish D1, well 12")


def test_everything_can_be_read_and_leafed_without_scripts(tab: Callable[..., Tab]) -> None:
    page = tab(java_script_enabled=False).go("/page/incubator/inc1")
    page.locator("#w-D1-2 a.whole").click()
    expect(page.locator("#caption")).to_contain_text("118.0 h")
    page.locator("#before").click()
    expect(page.locator("#caption")).to_contain_text("116.0 h")
    page.locator(".planes a", has_text="+30").click()
    expect(page.locator("#caption")).to_contain_text("116.0 h · frame 59 of 60 · plane +30 µm")
    expect(page.locator("#scrub")).to_be_hidden()
    expect(page.locator(".onsets")).to_contain_text("86.0")


def test_what_is_written_appears_by_itself_and_in_little_work(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path, wells(*WELLS), hours=20) as (journal, url):
        one = Tab(browser.new_page(), url)
        page = one.go("/page/incubator/inc1")
        page.evaluate("document.addEventListener('refreshed', (event) => (window.last = event.detail))")
        expect(page.locator("#w-D1-5 .alertline")).to_have_count(0)
        virtual.raise_alert(journal, f"inc1/D1/5/{key(0)}", START)
        expect(page.locator("#w-D1-5 .alertline")).to_contain_text("low P(blastocyst)")
        refreshed = page.evaluate("window.last")
        assert refreshed["changed"] == 1, "only what has changed is replaced"
        assert one.faults == []
        page.close()


def test_an_alert_is_noted_by_name_with_a_click(tab: Callable[..., Tab]) -> None:
    one = tab("tablet")
    page = one.go("/page/alerts")
    page.locator(".alert").first.get_by_label("Your name").fill("M. Keller")
    page.locator(".alert").first.get_by_label("Note, if any").fill("seen at the morning round")
    page.get_by_role("button", name="Take note").click()
    expect(page.locator(".alert").first).to_contain_text("noted by M. Keller")
    expect(page.locator(".alert").first).to_contain_text("seen at the morning round")
    expect(page.get_by_role("button", name="Take note")).to_have_count(0)
    assert one.faults == []


def test_a_blind_laboratory_assesses_first_and_then_sees_the_scores(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path, wells("1", "2"), blind_first=True) as (_, url):
        one = Tab(browser.new_page(), url)
        page = one.go(f"/page/embryo/inc1/D1/1/{key(0)}")
        expect(page.locator("#facts")).to_contain_text("Scores hidden")
        expect(page.locator(".course")).to_have_count(0)
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#caption")).to_contain_text("116.0 h")  # the pictures are there to be looked at
        page.get_by_label("Stage").select_option("tEB")
        page.get_by_label("Grade (Gardner, as 4AB)").fill("4AB")
        page.get_by_label("Your name").fill("M. Keller")
        page.get_by_role("button", name="Record").click()
        expect(page.locator(".course")).to_have_count(1)
        expect(page.locator("#facts")).to_contain_text("P(blastocyst)")
        expect(page.locator("#facts")).to_contain_text("M. Keller")
        page.goto(url + f"/page/embryo/inc1/D1/2/{key(0)}")
        expect(page.locator("#facts")).to_contain_text("Scores hidden")
        assert one.faults == []
        page.close()


def test_a_command_that_is_refused_says_why(tab: Callable[..., Tab]) -> None:
    page = tab().go(EMBRYO)
    page.get_by_text("Record an assessment of your own").click()
    page.get_by_label("Your name").fill("M. Keller")
    page.get_by_role("button", name="Record").click()
    expect(page.locator(".answer")).to_contain_text("an assessment holds a stage, a grade or a note")


def test_a_page_that_no_longer_answers_is_said_to_be_old(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page()
    with served(tmp_path, wells("1"), hours=4) as (_, url):
        Tab(page, url).go("/page/incubator/inc1")
        expect(page.locator("#stale")).to_be_hidden()
    expect(page.locator("#stale")).to_be_visible(timeout=20_000)
    page.close()


def test_a_picture_that_has_gone_from_its_folder_is_said_to_be_missing(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path, wells("1"), hours=4) as (_, url):
        for path in (tmp_path / "inc" / "D1" / "1").iterdir():
            path.unlink()
        page = Tab(browser.new_page(), url).go("/page/incubator/inc1")
        expect(page.locator("#w-D1-1 .photo")).to_have_text("the picture cannot be had now")
        expect(page.locator("#w-D1-1 .numbers")).to_contain_text("P(blastocyst)")
        page.close()


def test_day_5_and_its_picture_are_shown(tab: Callable[..., Tab]) -> None:
    page = tab().go(EMBRYO)
    expect(page.locator("#day5")).to_contain_text("4AA")
    picture = page.locator("#day5 img")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('#day5 img').naturalWidth > 0")


def test_the_report_prints_to_paper(tab: Callable[..., Tab], tmp_path: Path) -> None:
    page = tab().go(f"/page/report/inc1/D1/2/{key(0)}")
    expect(page.locator("#print")).to_be_visible()
    printed = page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert printed[:5] == b"%PDF-" and len(printed) > 20_000
    page.emulate_media(media="print")
    expect(page.locator("header")).to_be_hidden()
    expect(page.locator(".use")).to_contain_text("not validated on patients")
    expect(page.locator(".sign-off")).to_contain_text("By, and when")


def test_times_are_told_in_the_readers_own_zone(tab: Callable[..., Tab]) -> None:
    page = tab(timezone_id="Asia/Tokyo").go(EMBRYO)
    at = START + timedelta(hours=118 + 9)
    expect(page.locator("#facts time").first).to_contain_text(f"{at:%Y-%m-%d %H:%M}")
