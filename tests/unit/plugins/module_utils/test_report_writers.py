# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The four forms of the report: valid, complete, and deaf to whatever an audited file contained."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import (
    _report_html,
    _report_json,
    _report_junit,
    _report_page,
    _report_sarif,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import build, read_results, remember

ROOT = Path(__file__).resolve().parents[4]
_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sample)

HOSTILE = [
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "' autofocus onfocus='alert(1)",
    "javascript:alert(1)",
    "<!-- --><svg/onload=alert(1)>",
    "]]><x>&amp;&#0;&bogus;",
    "\u202eevil\u2066\u200f",
    "a\x00b\x08c\x1bd\x85e\ud800f\ufffeg",
    "x" * 10_000,
    "```\n</details>\n[a](javascript:alert(1))",
    "\u05d0\u05d1\u05d2 1.2.3",
    "%s %(x)s {0} {x} $x",
]


def hostile_report():
    findings, states = [], []
    for number, text in enumerate(HOSTILE):
        check_id = f"EVL-{number:02}"
        findings.append(
            {"id": check_id, "title": text, "severity": ["critical", "high", "medium", "low", "info"][number % 5],
             "subject": text, "where": f"{text}.yml:{number + 1}", "evidence": text, "fix": text, "references": [text, "CIS Docker " + text],
             "waived": {"reason": text, "expires": text} if number % 4 == 3 else None}
        )  # fmt: skip
        states.append({"id": check_id, "title": text, "severity": "high", "status": "fail", "reason": text})
        states.append({"id": f"UNK-{number:02}", "title": text, "severity": "low", "status": "unknown", "reason": text})
    results = [
        {"subject": text[:60] + str(n), "findings": findings, "checks_run": states} for n, text in enumerate(HOSTILE)
    ]
    first = build(read_results(results[:-1]), [], title="x", generated="2026-11-20T00:00:00Z")
    history = remember([], first, 9)
    return build(read_results(results[1:]), history, title=HOSTILE[0], generated="2026-11-21T00:00:00Z")


REPORTS = {
    "sample": sample.report,
    "first run": lambda: sample.report(days=0),
    "hostile": hostile_report,
    "nothing": lambda: build([], [], title="Empty", generated="2026-11-21T00:00:00Z"),
    "nothing but the catalogue": lambda: build([], [], title="Empty", generated="2026-11-21T00:00:00Z", catalogue=sample.CATALOGUE),  # fmt: skip
    "clean": lambda: build(
        read_results([{"subject": "a", **sample.audited(("image",), [])}]), [], title="Clean", generated="2026-11-21T00:00:00Z"
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(REPORTS))
def report(request):
    return REPORTS[request.param]()


@pytest.fixture(scope="module")
def schema():
    return jsonschema.Draft202012Validator(json.loads((ROOT / "tests/fixtures/sarif-2.1.0.json").read_text()))


# -- JSON -----------------------------------------------------------------------------------------------------------


def test_json_holds_what_the_page_shows(report):
    document = json.loads(_report_json.write(report))
    assert document["summary"] == report.summary
    assert len(document["findings"]) == len(report.findings)
    assert {check["id"] for check in document["checks"]} == {check["id"] for check in report.checks}
    assert _report_json.write(report).isascii()


def test_the_same_results_give_the_same_bytes():
    first, second = sample.report(), sample.report()
    for write in (_report_json.write, _report_junit.write, _report_html.write, lambda r: _report_sarif.write(r, "1")):
        assert write(first) == write(second)


# -- SARIF ----------------------------------------------------------------------------------------------------------


def test_sarif_is_valid(report, schema):
    document = json.loads(_report_sarif.write(report, "0.1.0"))
    assert [f"{error.json_path}: {error.message[:200]}" for error in schema.iter_errors(document)] == []


def test_the_schema_refuses_what_is_no_sarif(schema):
    document = _report_sarif.document(sample.report(), "0.1.0")
    document["runs"][0]["results"][0]["level"] = "high"
    assert list(schema.iter_errors(document))


def test_sarif_refers_to_its_own_rules(report):
    for run in _report_sarif.document(report, "0.1.0")["runs"]:
        rules = run["tool"]["driver"]["rules"]
        assert len({rule["id"] for rule in rules}) == len(rules)
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        for notification in run["invocations"][0]["toolExecutionNotifications"]:
            assert rules[notification["associatedRule"]["index"]]["id"] == notification["associatedRule"]["id"]


def _results(report, audited):
    document = _report_sarif.document(report, "0.1.0")
    (run,) = [run for run in document["runs"] if run["automationDetails"]["id"] == f"mcpstack-audit/{audited}/"]
    return run, run["results"]


def test_sarif_of_a_finding():
    run, results = _results(sample.report(), "compose project shop")
    (new,) = [result for result in results if result.get("baselineState") == "new"]
    assert new["ruleId"] == "CMP-01"
    assert new["level"] == "error"
    assert new["locations"] == [
        {
            "physicalLocation": {"artifactLocation": {"uri": "compose/ci.yml"}, "region": {"startLine": 14}},
            "logicalLocations": [{"fullyQualifiedName": "dind", "kind": "resource"}],
        }
    ]
    assert re.fullmatch("[0-9a-f]{32}", new["partialFingerprints"]["mcpstackFinding/v1"])
    assert [r["ruleId"] for r in results if r.get("baselineState") == "absent"] == ["CMP-17", "CMP-23"]
    waived = {result["ruleId"]: result["suppressions"] for result in results if "suppressions" in result}
    assert set(waived) == {"CMP-18", "CMP-22"}
    assert waived["CMP-18"] == [
        {"kind": "external", "status": "accepted", "justification": "counts processes of the host (until 2027-03-31)"}
    ]
    assert run["baselineGuid"]


def test_sarif_places_that_are_no_files_are_logical():
    _run, results = _results(sample.report(), "host docker1")
    where = {result["ruleId"]: result["locations"][0] for result in results}
    assert where["DMN-01"] == {
        "logicalLocations": [
            {"fullyQualifiedName": "dockerd", "kind": "resource"},
            {"fullyQualifiedName": "0.0.0.0:2375", "kind": "resource"},
        ]
    }
    assert where["DMN-14"]["physicalLocation"] == {
        "artifactLocation": {"uri": "file:///etc/docker/daemon.json"},
        "region": {"startLine": 4},
    }


def test_sarif_says_what_was_not_decided():
    run, _results_ = _results(sample.report(), "host docker1")
    said = [note["message"]["text"] for note in run["invocations"][0]["toolExecutionNotifications"]]
    assert "HST-10 was not decided: apt lists are 41 days old" in said


def test_a_first_run_has_no_baseline():
    document = _report_sarif.document(sample.report(days=0), "0.1.0")
    assert all("baselineGuid" not in run for run in document["runs"])
    assert all("baselineState" not in result for run in document["runs"] for result in run["results"])


def test_the_version_is_that_of_the_collection():
    from ansible_collections.mcpstack.platform.plugins.module_utils._report_files import VERSION

    assert re.search(r"(?m)^version: (\S+)$", (ROOT / "galaxy.yml").read_text())[1] == VERSION


# -- JUnit ----------------------------------------------------------------------------------------------------------

#: What the schema of Ant's JUnit task and that of Jenkins both allow: children in order, attributes (required first).
JUNIT = {
    "testsuites": (r"(testsuite )*", set(), set()),
    "testsuite": (
        r"properties (testcase )*system-out system-err ",
        {"package", "id", "name", "timestamp", "hostname", "tests", "failures", "errors", "time"},
        {"skipped"},
    ),
    "properties": (r"(property )*", set(), set()),
    "property": ("", {"name", "value"}, set()),
    "testcase": (r"((error|failure|skipped) )?", {"name", "classname", "time"}, set()),
    "error": ("", {"type"}, {"message"}),
    "failure": ("", {"type"}, {"message"}),
    "skipped": ("", set(), {"message"}),
    "system-out": ("", set(), set()),
    "system-err": ("", set(), set()),
}


def test_junit_is_valid(report):
    root = ElementTree.fromstring(_report_junit.write(report))
    assert root.tag == "testsuites"
    for element in root.iter():
        children, required, optional = JUNIT[element.tag]
        assert re.fullmatch(children, "".join(child.tag + " " for child in element)), element.tag
        assert required <= set(element.attrib) <= required | optional, element.tag
    for suite in root:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
        cases = suite.findall("testcase")
        assert int(suite.get("tests")) == len(cases)
        for number, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(number)) == len(suite.findall(f"testcase/{tag}")), number


def test_junit_of_each_status():
    root = ElementTree.fromstring(_report_junit.write(sample.report()))
    cases = {case.get("name").split()[0]: case for case in root.iter("testcase")}
    assert list(cases["CMP-11"].find("failure").attrib.items()) == [("type", "medium"), ("message", "1 finding")]
    assert cases["CMP-11"].find("failure").text.splitlines()[:2] == [
        "MEDIUM compose/app.yml:30 (worker)",
        "  seen: no CPU limit",
    ]
    assert cases["HST-10"].find("error").get("message") == "not decided: apt lists are 41 days old"
    assert cases["NGX-21"].find("skipped").get("message") == "not applicable: no upstream is used"
    assert cases["CMP-18"].find("skipped").get("message") == "waived: counts processes of the host (until 2027-03-31)"
    assert list(cases["CMP-07"]) == []


def test_junit_keeps_every_character_that_xml_can_carry():
    assert _report_junit.text('<a b="c">&\n\t\x00\x1f\ud800\ufffe\U0001f600') == (
        "&lt;a b=&quot;c&quot;&gt;&amp;&#10;&#9;\ufffd\ufffd\ufffd\ufffd\U0001f600"
    )


# -- HTML -----------------------------------------------------------------------------------------------------------

VOID = {"meta", "br", "input", "link", "img", "hr"}
SVG_VOID = {"circle", "rect", "line", "polyline", "polygon"}


class Page(HTMLParser):
    """Every tag closed in order; collects what a browser would load, run or follow."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.stack, self.problems, self.tags, self.ids = [], [], [], []
        self.headings, self.data = [], {}
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self.stack]

    def handle_starttag(self, tag, attrs):
        names = [name for name, _value in attrs]
        self.problems += [f"<{tag}> has {name} twice" for name in names if names.count(name) > 1]
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in SVG_VOID:
            self.problems.append(f"<{tag}/> closes itself")

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.problems.append(f"</{tag}> closes something else")

    def handle_data(self, data):
        if self.stack:
            self.data[self.stack[-1]] = self.data.get(self.stack[-1], "") + data


@pytest.fixture(scope="module")
def page(report):
    return Page(_report_html.write(report).decode())


def test_html_is_well_formed(page):
    assert page.problems == []
    assert len(page.ids) == len(set(page.ids))


def test_html_has_landmarks_a_language_and_a_title(page):
    tags = [tag for tag, _attributes in page.tags]
    assert ("html", {"lang": "en"}) in page.tags
    for landmark in ("header", "nav", "main", "footer", "h1", "title"):
        assert tags.count(landmark) == 1, landmark
    assert page.data["title"].strip()
    labels = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if tag in ("select", "input") and attributes.get("type") not in ("checkbox",):
            assert attributes["id"] in labels


def test_every_table_has_headers_for_its_rows_and_columns(page):
    tags = [(tag, attributes.get("scope")) for tag, attributes in page.tags if tag in ("table", "tr", "th", "thead")]
    assert tags.count(("table", None)) == tags.count(("thead", None))
    rows = tags.count(("tr", None)) - tags.count(("table", None))
    assert tags.count(("th", "row")) == rows


def test_html_loads_nothing_and_runs_only_its_own_script(page):
    assert [tag for tag, _attributes in page.tags].count("script") <= 1
    for tag, attributes in page.tags:
        assert tag not in {
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "audio",
            "video",
            "base",
            "image",
            "use",
            "source",
        }
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in {"src", "srcset", "style", "action", "formaction", "background", "poster", "xlink:href"}
            if name == "href":
                assert re.fullmatch("#[A-Za-z0-9-]+", value), value
    assert "url(" not in _report_page.STYLE
    assert "@import" not in _report_page.STYLE
    for word in ("fetch(", "XMLHttpRequest", "innerHTML", "eval(", "document.write", "import("):
        assert word not in _report_page.SCRIPT


def test_every_link_has_its_target(page):
    for tag, attributes in page.tags:
        if tag == "a":
            assert attributes["href"][1:] in page.ids


def test_the_policy_allows_the_page_and_nothing_else(page):
    (policy,) = [
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]

    def digest(tag):
        return "sha256-" + base64.b64encode(hashlib.sha256(page.data[tag].encode()).digest()).decode()

    assert policy == (
        f"default-src 'none'; style-src '{digest('style')}'; script-src '{digest('script')}'; base-uri 'none';"
        " form-action 'none'"
    )


def test_what_was_found_stays_text():
    text = _report_html.write(hostile_report()).decode()
    page = Page(text)
    assert [tag for tag, _a in page.tags].count("script") == 1
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert "x" * 1001 not in text
    assert "alert(1)" in page.data["code"]  # shown, not lost


def test_the_page_shows_every_finding_and_every_reason():
    report = sample.report()
    text = _report_html.write(report).decode()
    for item in report.findings:
        assert _report_html.e(item["evidence"]) in text
        assert _report_html.e(item["where"]) in text
        assert _report_html.e(item["fix"]) in text
    for group in report.undecided:
        assert _report_html.e(group["reason"]) in text
    assert text.count('class="place"') == len(report.findings)
    assert "waived" in text


def test_neighbours_that_the_same_checks_decide_share_a_row():
    def section(name, *ids):
        return {"section": name, "checks": [{"id": check_id} for check_id in ids]}

    rows = _report_html._ranges(
        [section("1.1", "A"), section("1.2", "A"), section("1.3", "A", "B"), section("1.4", "A"), section("1.6", "A"), section("5a", "A")]
    )  # fmt: skip
    assert [name for name, _checks in rows] == ["1.1 – 1.2", "1.3", "1.4", "1.6", "5a"]


# -- contrast -------------------------------------------------------------------------------------------------------


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * char for char in colour[1:])
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first, second):
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


THEMES = [
    dict(re.findall(r"--([a-z]+):(#[0-9a-f]+)", block)) for block in re.findall(r":root\{([^}]*)\}", _report_page.STYLE)
]
TEXT = {
    "page": ("text", "soft", "link"),
    "card": ("text", "soft", "link", "critical", "pass", "fail", "unknown", "waived", "ink"),
    "sunk": ("text",),
    "fixbox": ("text", "fixline"),
    "critical": ("on",), "high": ("on",), "medium": ("on",), "low": ("on",), "info": ("on",),
}  # fmt: skip


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark", "print"])
def test_text_stands_out_from_what_it_stands_on(theme):
    assert len(THEMES) == 3
    weak = {
        (text, ground): round(contrast(theme[text], theme[ground]), 2)
        for ground, texts in TEXT.items()
        for text in texts
        if contrast(theme[text], theme[ground]) < 4.5
    }
    assert weak == {}
    shapes = ("critical", "high", "medium", "low", "info", "pass", "fail", "unknown", "waived", "ink", "focus")
    assert {
        s: contrast(theme[s], theme["card"]) for s in shapes if s in theme and contrast(theme[s], theme["card"]) < 3
    } == {}
