# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Defaults and tables follow from the argument specs, and drift is found."""

from __future__ import annotations

import gen_role_docs as core
import pytest
import yaml

SPECS = """\
argument_specs:
  main:
    short_description: A thing
    options:
      mcpstack_thing_image: {description: The image., type: str, required: true}
      mcpstack_thing_memory: {description: Memory limit such as V(1g)., type: str, default: 512m}
      mcpstack_thing_cpus: {description: [Processors., Second paragraph.], type: str, default: "1.0"}
      mcpstack_thing_name: {description: Its name., type: str, default: "{{ inventory_hostname }}"}
      mcpstack_thing_on: {description: Whether., type: bool, default: true}
      mcpstack_thing_list:
        description: Entries | more.
        type: list
        elements: dict
        default: [{name: a, of: [1, 2]}]
        options:
          name: {description: Name., type: str, required: true, choices: [a, b]}
      other_option: {description: Of all., type: int, default: 3}
      _internal: {description: Hidden., type: int, default: 3}
  again:
    options:
      mcpstack_thing_memory: {description: Said twice., type: str, default: 512m}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    meta = tmp_path / "roles" / "thing" / "meta"
    meta.mkdir(parents=True)
    (meta / "argument_specs.yml").write_text(SPECS)
    (tmp_path / "roles" / "thing" / "README.md").write_text(f"# thing\n\n{core.BEGIN}\nold\n{core.END}\n\nafter\n")
    monkeypatch.setattr(core, "ROOT", tmp_path)
    return tmp_path


def test_defaults_say_what_the_specs_say(root):
    assert core.main(["x"]) == 0
    text = (root / "roles" / "thing" / "defaults" / "main.yml").read_text()
    assert yaml.safe_load(text) == {
        "mcpstack_thing_memory": "512m",
        "mcpstack_thing_cpus": "1.0",
        "mcpstack_thing_name": "{{ inventory_hostname }}",
        "mcpstack_thing_on": True,
        "mcpstack_thing_list": [{"name": "a", "of": [1, 2]}],
    }
    assert "# Memory limit such as 1g.\nmcpstack_thing_memory: 512m\n" in text
    assert '# Processors.\nmcpstack_thing_cpus: "1.0"\n' in text
    assert 'mcpstack_thing_name: "{{ inventory_hostname }}"\n' in text


def test_the_table_replaces_what_is_between_the_markers(root):
    core.main(["x"])
    text = (root / "roles" / "thing" / "README.md").read_text()
    assert text.startswith(f"# thing\n\n{core.BEGIN}\n| option |")
    assert text.endswith(f"{core.END}\n\nafter\n")
    assert "old" not in text
    assert "| `mcpstack_thing_image` | str | **required** | The image. |" in text
    assert "| `mcpstack_thing_memory` | str | `512m` | Memory limit such as `1g`. |" in text
    assert "| `mcpstack_thing_list[].name` | str | **required** | Name. One of `a`, `b`. |" in text
    assert "Entries \\| more." in text
    assert "_internal" not in text
    assert "Said twice" not in text


def test_the_configuration_page_holds_every_role(root):
    core.main(["x"])
    page = (root / "docs" / "configuration.md").read_text()
    assert "## thing\n\nA thing\n\n| option |" in page
    assert page.count("mcpstack_thing_memory") == 1


def test_a_second_run_writes_nothing_and_the_check_passes(root, capsys):
    core.main(["x"])
    capsys.readouterr()
    assert core.main(["x"]) == 0
    assert core.main(["x", "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_drift_fails_the_check_and_nothing_is_written(root, capsys):
    core.main(["x"])
    path = root / "roles" / "thing" / "defaults" / "main.yml"
    path.write_text(path.read_text().replace("512m", "1g"))
    capsys.readouterr()
    assert core.main(["x", "--check"]) == 1
    shown = capsys.readouterr().out
    assert "-mcpstack_thing_memory: 1g\n+mcpstack_thing_memory: 512m\n" in shown
    assert "run `make docs`" in shown
    assert "1g" in path.read_text()


def test_broken_markers_are_a_sentence(root, capsys):
    (root / "roles" / "thing" / "README.md").write_text(f"{core.BEGIN}\n")
    assert core.main(["x"]) == 1
    expected = "error: roles/thing/README.md needs exactly one <!-- options --> and, after it, one <!-- /options -->.\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    "value", ["1.0", "yes", "on", "", " x", "null", "0x10", "22:30", "a: b", "# no", "512m", "{{ x }}"]
)
def test_strings_stay_strings(value):
    assert yaml.safe_load(core.dump("v", value)) == {"v": value}


def test_long_descriptions_are_cut_to_a_sentence_and_wrapped():
    assert core.comment({"description": "First. " + "x " * 80}) == "# First."
    lines = core.comment({"description": "word " * 60}).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("# word") and len(line) <= core.WIDTH for line in lines)
