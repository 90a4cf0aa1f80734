# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""image_audit's reading of Dockerfiles (IMG-02, IMG-04, IMG-05, IMG-07) against hadolint."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_dockerfile import TABLE, audit_dockerfile
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.tests.peers.conftest import call, ledger, settle

#: Our checks that decide what a rule of theirs decides; the rest of their rules have a row of their own in the ledger.
OURS = {
    "DL3002": {"IMG-04"}, "DL3004": {"IMG-07"}, "DL3006": {"IMG-02"}, "DL3007": {"IMG-02"}, "DL3008": {"IMG-07"}, "DL3009": {"IMG-07"}, "DL3013": {"IMG-07"}, "DL3016": {"IMG-07"},
    "DL3018": {"IMG-07"}, "DL3020": {"IMG-07"}, "DL3028": {"IMG-07"}, "DL3033": {"IMG-07"}, "DL3037": {"IMG-07"}, "DL3041": {"IMG-07"},
    "DL3057": {"IMG-05"}, "DL3062": {"IMG-07"},
}  # fmt: skip
COMPARED = set().union(*OURS.values())

LISTS = "rm -rf /var/lib/apt/lists/*"
#: Case -> lines between FROM and USER; a file of its own where it begins with FROM.
CASES = {
    "hardened": "COPY app /app",
    # IMG-04
    "root": "FROM debian:13.1-slim\nUSER root\nHEALTHCHECK CMD x",
    "root by number": "FROM debian:13.1-slim\nUSER 0\nHEALTHCHECK CMD x",
    "root with group": "FROM debian:13.1-slim\nUSER 0:0\nHEALTHCHECK CMD x",
    "root last": "FROM debian:13.1-slim\nUSER app\nRUN x\nUSER root\nHEALTHCHECK CMD x",
    "root in the first stage": "FROM debian:13.1-slim AS build\nUSER root\nFROM debian:13.1-slim\nUSER app\nHEALTHCHECK CMD x",
    "no user": "FROM debian:13.1-slim\nHEALTHCHECK CMD x",
    "root by a variable": "FROM debian:13.1-slim\nARG WHO=root\nUSER $WHO\nHEALTHCHECK CMD x",
    "root of a stage": "FROM debian:13.1-slim AS base\nUSER root\nFROM base\nHEALTHCHECK CMD x",
    # IMG-05
    "no health check": "FROM debian:13.1-slim\nUSER app",
    "no health": "FROM debian:13.1-slim\nUSER app\nHEALTHCHECK NONE",
    # IMG-07
    "sudo": "RUN sudo make install",
    "sudo later": "RUN make && sudo make install",
    "sudo in a word": "RUN echo pseudo",
    "apt-get": f"RUN apt-get update && apt-get install -y --no-install-recommends curl && {LISTS}",
    "apt-get pinned": f"RUN apt-get update && apt-get install -y --no-install-recommends curl=8.14.1-2 && {LISTS}",
    "apt-get of a variable": f"ARG V=1\nRUN apt-get update && apt-get install -y --no-install-recommends curl=$V && {LISTS}",
    "apt-get of a file": "COPY x.deb /\nRUN apt-get install -y --no-install-recommends /x.deb",
    "apt": f"RUN apt update && apt install -y curl=1 && {LISTS}",
    "apt-get with options": f"RUN DEBIAN_FRONTEND=noninteractive apt-get -qq update && apt-get -y -o a=b install --no-install-recommends curl && {LISTS}",
    "lists stay": "RUN apt-get update && apt-get install -y --no-install-recommends curl=1",
    "lists stay in a build stage": "FROM debian:13.1-slim AS build\nRUN apt-get update && apt-get install -y --no-install-recommends curl=1\nFROM debian:13.1-slim\nUSER app\nHEALTHCHECK CMD x",
    "update alone": "RUN apt-get update",
    "pip": "RUN pip install --no-cache-dir requests",
    "pip pinned": "RUN pip install --no-cache-dir requests==2.34.2",
    "pip range": "RUN pip install --no-cache-dir 'requests>=2'",
    "pip3": "RUN pip3 install --no-cache-dir requests",
    "python -m pip": "RUN python3 -m pip install --no-cache-dir requests",
    "pip of a file": "RUN pip install --no-cache-dir -r requirements.txt",
    "pip of the project": "RUN pip install --no-cache-dir .",
    "apk": "RUN apk add --no-cache curl",
    "apk pinned": "RUN apk add --no-cache curl=8.14.1-r1",
    "apk range": "RUN apk add --no-cache 'curl>8'",
    "apk virtual": "RUN apk add --no-cache --virtual .deps curl=8.14.1-r1",
    "npm": "RUN npm install -g express",
    "npm pinned": "RUN npm install -g express@4.1.1",
    "gem": "RUN gem install bundler",
    "gem pinned": "RUN gem install bundler:2.0.1",
    "yum": "RUN yum install -y httpd && yum clean all",
    "yum pinned": "RUN yum install -y httpd-2.4.46 && yum clean all",
    "dnf": "RUN dnf install -y httpd && dnf clean all",
    "zypper": "RUN zypper install -y httpd && zypper clean",
    "go": "RUN go install example.org/x/cmd@latest",
    "go pinned": "RUN go install example.org/x/cmd@v1.2.3",
    "ADD": "ADD app /app",
    "ADD of an archive": "ADD app.tar.gz /app",
    "ADD of a URL": "ADD https://example.org/x /x",
    "ADD of a URL with its sum": f"ADD --checksum=sha256:{'a' * 64} https://example.org/x /x",
    "download to a shell": "SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN curl -fsSL https://example.org/x | sh",
    "download to bash by wget": "RUN wget -qO- https://example.org/x | bash",
    # IMG-02
    "no tag": "FROM debian\nUSER app\nHEALTHCHECK CMD x",
    "latest": "FROM debian:latest\nUSER app\nHEALTHCHECK CMD x",
    "major version": "FROM debian:13-slim\nUSER app\nHEALTHCHECK CMD x",
    # theirs alone
    "recommends": f"RUN apt-get update && apt-get install -y curl=1 && {LISTS}",
    "no yes": f"RUN apt-get update && apt-get install --no-install-recommends curl=1 && {LISTS}",
    "cd": "RUN cd /x && make",
    "relative directory": "WORKDIR app",
    "maintainer": "MAINTAINER me",
    "two commands": "CMD a\nCMD b",
    "pipe": "RUN a | b",
    "pip cache": "RUN pip install requests==2.34.2",
    "apk cache": "RUN apk add curl=8.14.1-r1",
}  # fmt: skip


def text(case: str) -> str:
    return case + "\n" if case.startswith("FROM") else f"FROM debian:13.1-slim\n{case}\nUSER 64101\nHEALTHCHECK CMD x\n"


@pytest.fixture(scope="module")
def differences(tmp_path_factory) -> dict[str, tuple[set[str], set[str]]]:
    root = tmp_path_factory.mktemp("hadolint")
    names = dict(zip((f"{number}.Dockerfile" for number in range(len(CASES))), CASES))
    for file, name in names.items():
        (root / file).write_text(text(CASES[name]))
    theirs: dict[str, set[str]] = {file: set() for file in names}
    # DL3057 is off by default
    answer = call("hadolint", "--no-fail", "-f", "json", "--info", "DL3057", *names, cwd=root)
    for item in json.loads(answer):
        theirs[item["file"]].add(item["code"])
    found: dict[str, tuple[set[str], set[str]]] = {}
    for file, name in names.items():
        audit = Audit(TABLE)
        audit_dockerfile(audit, "/src/Dockerfile", MemoryFiles({"/src/Dockerfile": text(CASES[name])}))
        ours = {item["id"] for item in audit.result()["findings"]} & COMPARED
        said = set().union(*(OURS.get(code, set()) for code in theirs[file]))
        found[name] = ({code for code in theirs[file] if code in OURS and not OURS[code] & ours}, ours - said)
        for code in theirs[file] - set(OURS):
            found[f"rule {code}"] = ({code}, set())
    return found


def test_every_difference_has_a_reason(differences):
    wrong = settle(differences, ledger("hadolint"))
    assert not wrong, "\n".join(wrong)
