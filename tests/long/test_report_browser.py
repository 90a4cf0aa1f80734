# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report's page in a real Chromium: it asks nobody for anything, reads without script, filters with it, and fits."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _report_html

pytestmark = pytest.mark.long

HERE = Path(__file__).resolve().parent


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chromium = load(HERE / "chromium.py")
units = HERE.parent / "unit" / "plugins" / "module_utils"
sample = load(units / "report_fixture.py")
writers = load(units / "test_report_writers.py")

SHOWN = "[...document.querySelectorAll('.place')].filter(e => e.offsetParent).map(e => e.textContent)"
#: Text that is cut off, and boxes that stick out of the page.
OVERFLOW = """[...document.body.querySelectorAll('*')].filter(e => e.offsetParent && !e.closest('svg,nav,.sr,.scroll')
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Chromium]:
    started = chromium.Chromium()
    yield started
    started.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(_report_html.write(sample.report()))
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    path.write_bytes(_report_html.write(writers.hostile_report()))
    return path


def test_a_request_would_be_seen(browser, tmp_path):
    probe = tmp_path / "probe.html"
    probe.write_text("<img src='http://127.0.0.1:9/x.png'><script>nothing()</script>")
    browser.open(probe)
    assert "http://127.0.0.1:9/x.png" in browser.requests
    assert any("nothing is not defined" in error for error in browser.errors)


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_asks_for_nothing_and_complains_of_nothing(browser, page, width):
    browser.open(page, width=width)
    assert browser.requests == [page.as_uri()]
    assert browser.errors == []


def test_what_sticks_out_would_be_seen(browser, page):
    browser.open(page, width=360)
    browser.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<hr width=900>')")
    assert len(browser.evaluate(OVERFLOW)) == 1


@pytest.mark.parametrize("name", ["page", "hostile"])
@pytest.mark.parametrize(("width", "dark"), [(320, False), (360, False), (768, True), (1280, False), (1280, True)])
def test_nothing_sticks_out(browser, request, tmp_path, name, width, dark):
    browser.open(request.getfixturevalue(name), width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OVERFLOW) == []
    picture = tmp_path / "page.png"
    browser.screenshot(picture, height=2000)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_what_was_found_does_not_run(browser, hostile):
    browser.open(hostile)
    assert browser.requests == [hostile.as_uri()]
    assert browser.errors == []
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    assert (
        browser.evaluate("document.querySelectorAll('img,iframe,[onload],[onerror],[onfocus],[onmouseover]').length")
        == 0
    )
    assert "</script><script>alert(1)</script>" in browser.evaluate("document.querySelector('h1').textContent")


def test_the_policy_holds_against_what_is_put_in_later(browser, page):
    browser.open(page)
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"http://127.0.0.1:9/x.png\">')")
    browser.evaluate(
        "var s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    )
    assert browser.evaluate("window.ran") is None
    assert any("Content Security Policy" in error for error in browser.errors)


def test_it_reads_without_script(browser, page):
    browser.open(page, script=False)
    document = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
    text = browser.call("DOM.getOuterHTML", nodeId=document)["outerHTML"]
    assert '<form id="filter" role="search" aria-label="Filter the findings" hidden' in text
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    seen = " ".join(str(node.get("name", {}).get("value", "")) for node in tree if not node["ignored"])
    # what stands open by itself; the rest opens by a click, which needs no script either
    for text in ("Container is privileged", "privileged: true", "CIS Docker", "apt lists are 41 days old", "Fixed (2)"):
        assert text in seen
    assert f"Score {sample.report().score} of 100" in seen


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("", lambda item: True),
        ("#sev=critical", lambda item: item["severity"] == "critical"),
        ("#sev=critical.low", lambda item: item["severity"] in ("critical", "low")),
        ("#state=new", lambda item: item["state"] == "new" and not item["waived"]),
        ("#state=waived", lambda item: item["waived"]),
        ("#state=open", lambda item: not item["waived"]),
        ("#audited=1", lambda item: item["audited"] == "nginx of the edge"),
        ("#standard=4", lambda item: any(r.startswith("Mozilla TLS ") for r in item["references"])),
        ("#q=docker.sock", lambda item: "docker.sock" in " ".join(map(str, item.values()))),
        ("#sev=high&audited=0&q=postgres", lambda item: (item["severity"], item["subject"]) == ("high", "postgres")),
        ("#q=nothing%20of%20that%20kind", lambda item: False),
        ("#sev=&q=%E0%A4%A", lambda item: False),  # broken escapes are no reason to stop
        ("#audited=99&state=%3Cb%3E", lambda item: True),
    ],
)
def test_the_filter(browser, page, fragment, expected):
    wanted = [item for item in sample.report().findings if expected(item)]
    browser.open(page, fragment)
    browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    shown = browser.evaluate(SHOWN)
    assert len(shown) == len(wanted)
    for item in wanted:
        assert any(item["evidence"] in text and item["where"] in text for text in shown)
    said = browser.evaluate("document.getElementById('shown').textContent")
    total = len(sample.report().findings)
    assert said == (f"All {total} findings" if len(wanted) == total else f"{len(wanted)} of {total} findings")
    assert browser.errors == []


def test_the_filter_by_hand_goes_into_the_address_and_can_be_cleared(browser, page):
    browser.open(page)
    browser.evaluate(
        "var q = document.getElementById('q'); q.value = 'worker'; q.form.dispatchEvent(new Event('input'))"
    )
    assert browser.evaluate("location.hash") == "#q=worker"
    some = browser.evaluate("document.getElementById('shown').textContent")
    assert some.endswith(" findings") and not some.startswith("All ")
    browser.evaluate("document.querySelector('button[type=reset]').click()")
    browser.evaluate("new Promise(done => setTimeout(done, 50))")
    while not browser.evaluate("document.getElementById('shown').textContent").startswith("All "):
        pass
    assert browser.evaluate("location.hash") == "#findings"


def test_a_link_to_a_finding_opens_it_even_when_it_is_filtered_out(browser, page):
    browser.open(page, "#sev=critical")
    browser.evaluate("location.hash = '#CMP-08'")
    while not browser.evaluate("document.getElementById('CMP-08').open"):
        pass
    assert browser.evaluate("document.getElementById('CMP-08').hidden") is False


def test_the_standards_are_reached_by_keyboard_and_show_one_at_a_time(browser, page):
    browser.open(page)
    panels = "[...document.querySelectorAll('.panel')].filter(e => e.offsetParent).length"
    assert browser.evaluate(panels) == 1
    browser.evaluate("document.getElementById('s0').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    assert browser.evaluate("document.querySelector('.tabs > input:checked').id") == "s1"
    assert browser.evaluate(panels) == 1


def test_it_prints_whole(browser, page):
    browser.open(page)
    raw = browser.pdf()
    assert raw.startswith(b"%PDF-")
    width, height = map(float, re.search(rb"/MediaBox \[0 0 ([0-9.]+) ([0-9.]+)\]", raw).groups())
    assert (round(width), round(height)) == (595, 842)  # A4 in points
    # what is folded on the screen is on paper
    browser.call("Emulation.setEmulatedMedia", media="print")
    hidden = browser.evaluate("[...document.querySelectorAll('.place')].filter(e => !e.checkVisibility({contentVisibilityAuto: true})).length")  # fmt: skip
    assert hidden == 0
    assert (
        browser.evaluate("[...document.querySelectorAll('nav,form,.status')].filter(e => e.offsetParent).length") == 0
    )


def test_a_thousand_findings_stay_usable(browser, tmp_path):
    rows = [("CMP-05", f"service{n}", f"compose/{n % 7}.yml:{n}", f"seen {n}", None) for n in range(1000)]
    results = sample.read_results([{"subject": "many", "result": sample.audited(("container",), rows)}])
    report = sample.build(results, [], title="Many", generated="2026-11-21T00:00:00Z", catalogue=sample.CATALOGUE)
    path = tmp_path / "many.html"
    path.write_bytes(_report_html.write(report))
    browser.open(path, "#q=service999")
    assert browser.evaluate("document.getElementById('shown').textContent") == "1 of 1000 findings"
