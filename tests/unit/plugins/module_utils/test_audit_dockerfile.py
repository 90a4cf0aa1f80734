# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dockerfiles: the last stage decides, and what only looks like a weakness stays silent."""

from __future__ import annotations

import random

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_dockerfile import TABLE, audit_dockerfile
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._dockerfile import DockerfileError, parse

PINNED = f"debian:13.1-slim@sha256:{'a' * 64}"
END = 'USER 1000\nHEALTHCHECK CMD ["app", "--ready"]\nCMD ["app"]\n'


def judge(text):
    audit = Audit(TABLE)
    audit_dockerfile(audit, "/src/Dockerfile", MemoryFiles({"/src/Dockerfile": text}))
    return audit.result()


BASES = ("IMG-01", "IMG-02")  # of their own below; everywhere else the base is a bystander


def every(text):
    return [(item["id"], int(item["where"].rpartition(":")[2]), item["evidence"]) for item in judge(text)["findings"]]


def found(text):
    return [item for item in every(text) if item[0] not in BASES]


def states(text):
    return {state["id"]: state["status"] for state in judge(text)["checks_run"]}


def step(line):
    """A file that is fine but for one step, on line 2."""
    return f"FROM {PINNED}\n{line}\n{END}"


def test_a_good_file_passes():
    assert set(states(step("COPY app /app")).values()) == {"pass"}


# -- IMG-01, IMG-02 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("FROM debian", [("IMG-02", 1, "debian: no tag, which is latest")]),
        ("FROM debian:latest", [("IMG-02", 1, "debian:latest: tag latest is moved with every release")]),
        ("FROM debian:13-slim", [("IMG-02", 1, "debian:13-slim: tag 13-slim names a major version, not one release")]),
        ("FROM debian:13.1-slim", [("IMG-01", 1, "debian:13.1-slim: a tag without a digest")]),
        ("ARG V=latest\nFROM debian:$V", [("IMG-02", 2, "debian:latest: tag latest is moved with every release")]),
        (f"FROM golang AS build\nFROM {PINNED}", [("IMG-02", 1, "golang: no tag, which is latest")]),
        (f"FROM {PINNED}\nCOPY --from=busybox /bin/x /x", [("IMG-02", 2, "busybox: no tag, which is latest")]),
        (f"FROM --platform=linux/arm64 {PINNED}", []),
        ("FROM scratch", []),
        (f"FROM {PINNED} AS build\nRUN x\nFROM build\nCOPY --from=BUILD /x /x\nCOPY --from=0 /y /y", []),
    ],
)  # fmt: skip
def test_bases(lines, expected):
    assert every(f"{lines}\n{END}") == expected


def test_a_base_that_cannot_be_resolved_is_not_decided():
    answer = states(f"ARG BASE\nFROM $BASE\n{END}")
    assert (answer["IMG-01"], answer["IMG-02"], answer["IMG-07"]) == ("unknown", "unknown", "pass")


# -- IMG-04 ---------------------------------------------------------------------------------------------------------

HEALTH = "HEALTHCHECK CMD x\n"


@pytest.mark.parametrize(
    ("text", "line", "evidence"),
    [
        ("FROM debian\n" + HEALTH, 1, "no USER in the last stage, from debian"),
        ("FROM scratch\n" + HEALTH, 1, "no USER in the last stage, from scratch"),
        ("FROM debian\nUSER root\n" + HEALTH, 2, "USER root"),
        ("FROM debian\nUSER 0:0\n" + HEALTH, 2, "USER 0:0"),
        ("FROM debian\nUSER 00\n" + HEALTH, 2, "USER 00"),
        ("FROM debian\nUSER app\nUSER root\n" + HEALTH, 3, "USER root"),
        ("FROM debian\nARG APP=0\nUSER ${APP}\n" + HEALTH, 3, "USER 0"),
        ("FROM debian\nUSER ${APP:-root}\n" + HEALTH, 2, "USER root"),
        ("FROM debian AS build\nUSER app\nFROM debian\n" + HEALTH, 3, "no USER in the last stage, from debian"),
        ("FROM debian AS base\nUSER root\nFROM base\n" + HEALTH, 2, "USER root"),
        ("FROM debian\nuser root\n" + HEALTH, 2, "USER root"),
        ("FROM debian\nRUN echo \\\n USER app\n" + HEALTH, 1, "no USER in the last stage, from debian"),
        ("FROM debian\nRUN <<EOF\nUSER app\nEOF\n" + HEALTH, 1, "no USER in the last stage, from debian"),
        ("FROM debian\n# USER app\n" + HEALTH, 1, "no USER in the last stage, from debian"),
    ],
)
def test_root(text, line, evidence):
    assert found(text) == [("IMG-04", line, evidence)]


@pytest.mark.parametrize(
    "text",
    [
        "FROM debian\nUSER app\n",
        "FROM debian\nUSER root\nRUN x\nUSER 1000:0\n",
        "FROM debian AS base\nUSER app\nFROM base AS run\n",  # inherited
        "FROM debian AS Base\nUSER app\nFROM base\n",
        "FROM gcr.io/distroless/static:nonroot\n",
        "FROM gcr.io/distroless/static-debian13:nonroot@sha256:" + "0" * 64 + "\n",
        "FROM nginxinc/nginx-unprivileged:1.29\n",
        "FROM debian AS tool\nUSER root\nFROM debian\nCOPY --from=tool /x /x\nUSER app\n",
        "FROM debian\nENV APP=app\nUSER $APP\n",
        "# escape=`\nFROM debian\nRUN dir `\n  c:\\\nUSER app\n",
        "FROM debian\nRUN a \\\n\n# comment\n  && b\nUSER app\n",
    ],
)
def test_not_root(text):
    assert found(text + HEALTH) == []


@pytest.mark.parametrize("text", ["FROM debian\nARG APP\nUSER $APP\n", "ARG BASE\nFROM $BASE\n"])
def test_what_a_build_argument_decides_is_unknown(text):
    assert found(text + HEALTH) == []
    assert states(text + HEALTH)["IMG-04"] == "unknown"


# -- IMG-05 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("FROM a\nUSER 1\nCMD x\n", 1),
        ("FROM a\nHEALTHCHECK CMD x\nUSER 1\nHEALTHCHECK NONE\n", 4),
        ("FROM a AS b\nHEALTHCHECK CMD x\nFROM a\nUSER 1\n", 3),
    ],
)
def test_no_health_check(text, line):
    assert [row[:2] for row in found(text)] == [("IMG-05", line)]


def test_an_inherited_health_check_counts():
    assert (
        found(
            "FROM a AS b\nHEALTHCHECK --interval=5s --timeout=3s CMD curl -f http://localhost/ || exit 1\nFROM b\nUSER 1\n"
        )
        == []
    )


# -- IMG-07 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "evidence"),
    [
        ("ADD app /app", "ADD app: COPY does the same and nothing more"),
        ('ADD ["app", "/app"]', "ADD app: COPY does the same and nothing more"),
        ("ADD --chown=1:1 . /app", "ADD .: COPY does the same and nothing more"),
        ("ADD https://example.org/x /x", "ADD fetches from the network without --checksum"),
        ("ADD git@github.com:a/b.git /x", "ADD fetches from the network without --checksum"),
        ("RUN curl -sSL https://example.org/i.sh | sh", "a download is piped into an interpreter"),
        ('RUN ["/bin/sh", "-c", "curl -s x | bash"]', "a download is piped into an interpreter"),
        ("RUN <<EOF\nset -e\ncurl -s x | bash\nEOF", "a download is piped into an interpreter"),
        ("RUN a \\\n  && wget -qO- x \\\n  | sudo bash", None),
        ("RUN sudo make install", "sudo in a build step"),
        ("RUN apt-get update && apt-get install -y --no-install-recommends curl=8.14.1-2 jq && rm -rf /var/lib/apt/lists/*",
         "installed without a version: jq"),
        ("RUN apk add --no-cache --virtual .build gcc", "installed without a version: gcc"),
        ("RUN pip install --no-cache-dir flask", "installed without a version: flask"),
        ("RUN dnf install -y httpd java-17-openjdk curl-8.14.1 @core", "installed without a version: httpd, java-17-openjdk"),
        ("RUN zypper --non-interactive in curl 'jq=1.8'", "installed without a version: curl"),
        ("RUN npm install -g express @scope/x @scope/y@1.2 yarn@latest",
         "installed without a version: express, @scope/x, yarn@latest"),
        ("RUN gem install bundler rake:13.2.1", "installed without a version: bundler"),
        ("RUN go install example.org/a@v1.2.3 && go install example.org/b@latest",
         "installed without a version: example.org/b@latest"),
        ("RUN python3 -m pip install 'flask>=2'", "installed without a version: flask>=2"),
        ("RUN DEBIAN_FRONTEND=noninteractive apt-get update && apt-get install -y curl=1", "package lists stay in the layer"),
        ("RUN apt-get update", "apt-get update in a step of its own: a later install may use an old list"),
    ],
)  # fmt: skip
def test_steps_that_are_not_clean(line, evidence):
    rows = found(step(line))
    assert {row[:2] for row in rows} == {("IMG-07", 2)}
    if evidence:
        assert [row[2] for row in rows] == [evidence]
    else:
        assert len(rows) == 2  # the pipe, and sudo


@pytest.mark.parametrize(
    "line",
    [
        "ADD rootfs.tar.xz /",
        "ADD --checksum=sha256:24454f830cdb https://example.org/x /x",
        "ADD $FILE /x",
        "COPY --from=build /a /b",
        "RUN curl -fsSLo i.sh https://example.org/i.sh && sha256sum -c i.sum && sh i.sh",
        "RUN curl -fs https://example.org/health || exit 1",
        "RUN curl -s https://example.org/k | gpg --dearmor -o /k",
        "RUN apt-get update && apt-get install -y curl=8.14.1-2 && rm -rf /var/lib/apt/lists/*",
        "RUN apt-get update && apt-get -y install curl=8.14.1-2 && apt-get clean && rm -rf /tmp/* /var/lib/apt/lists/*",
        "RUN --mount=type=cache,target=/var/lib/apt apt-get update && apt-get install -y curl=1",
        "RUN apt-get update && apt-get install -y ./local.deb && rm -rf /var/lib/apt/lists/*",
        'RUN apt-get update && apt-get install -y "curl=${V}" && rm -rf /var/lib/apt/lists/*',
        "RUN pip install --require-hashes -r requirements.txt",
        "RUN pip install flask==3.1.2 ./wheels/app.whl .",
        "RUN pip install --no-cache-dir -r requirements.txt -c constraints.txt",
        "RUN apk add --no-cache curl=8.14.1-r0 'jq~=1.8'",
        "RUN apk --no-cache upgrade",
        "RUN yum install -y httpd-2.4.46-1.el9 https://example.org/x.rpm",
        "RUN npm install && npm ci && npm install ./local",
        "RUN gem install bundler --version 2.0.1",
        "RUN echo pip install later",
        "RUN adduser --system sudo-user",
        "ONBUILD ADD . /app",
    ],
)
def test_steps_that_stay_silent(line):
    assert found(step(line)) == []


def test_lists_in_a_stage_that_is_thrown_away_stay_silent():
    assert (
        found(
            "FROM debian AS build\nRUN apt-get update && apt-get install -y gcc=1\nFROM scratch\nCOPY --from=build /a /a\n"
            + END
        )
        == []
    )


# -- SEC-15 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "evidence"),
    [
        ("ENV DB_PASSWORD=s3cr3t-value", "ENV writes down DB_PASSWORD"),
        ("ARG NPM_TOKEN=s3cr3t-value", "ARG writes down NPM_TOKEN"),
        ("RUN API_KEY=s3cr3t-value ./deploy", "RUN writes down API_KEY"),
        ("RUN git clone https://x:s3cr3t-value@example.org/a.git", "RUN writes down a credential"),
    ],
)
def test_secrets(line, evidence):
    result = judge(step(line))
    assert [(item["id"], item["evidence"]) for item in result["findings"]] == [("SEC-15", evidence)]
    assert "s3cr3t" not in str(result)


@pytest.mark.parametrize(
    "line",
    ["ARG NPM_TOKEN", "ENV DB_PASSWORD_FILE=/run/secrets/db", "ARG T\nENV API_TOKEN=$T",
     "RUN --mount=type=secret,id=t API_TOKEN=$(cat /run/secrets/t) ./deploy"],
)  # fmt: skip
def test_what_is_no_secret_stays_silent(line):
    assert found(step(line)) == []


# -- any text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no FROM"),
        ("RUN x\n", "line 1: RUN stands before the first FROM"),
        ("FROM\n", "line 1: FROM names no image"),
        ("services:\n  a:\n", "line 1: 'SERVICES:' is no instruction"),
        ("FROM a\nRUN <<EOF\nx\n", "line 2: the here-document EOF never ends"),
        ("FROM a\n" + "RUN x\n" * 20_001, "has more than 20000 instructions"),
    ],
)
def test_what_is_no_dockerfile_is_one_sentence(text, message):
    with pytest.raises(DockerfileError, match=message):
        parse(text)
    result = judge(text)
    assert {state["status"] for state in result["checks_run"]} == {"unknown"}
    assert message in result["checks_run"][0]["reason"]


def test_windows_lines_a_mark_and_a_missing_last_line():
    assert found("\ufeffFROM debian\r\nUSER \\\r\n  app\r\nHEALTHCHECK CMD x \\") == []


def test_lines_are_those_of_the_file():
    assert found("# syntax=docker/dockerfile:1\n\nFROM debian\n# x\nRUN a \\\n  b\n\nUSER root\n" + HEALTH) == [
        ("IMG-04", 8, "USER root")
    ]


@pytest.mark.parametrize("seed", range(30))
def test_any_bytes_give_an_answer(seed):
    chance = random.Random(seed)
    pieces = ["FROM a AS b\n", "FROM b\n", "RUN ", "<<EOF\n", "EOF\n", "\\\n", "# ", "USER $A\n", "ENV A=${A:-${A}}\n", '["', "]\n", "&& ",
              "curl x | sh\n", "apt-get install ", "\x00", "\u2028", "ARG ", "=", "'", "`\n", "ADD ", "HEALTHCHECK ", "--x=y "]  # fmt: skip
    judge("".join(chance.choice(pieces) for _n in range(400)))


@pytest.mark.parametrize(
    "text",
    ["FROM a\nRUN " + "curl " * 60_000, "FROM a\nRUN " + "a && " * 60_000, "FROM a\nENV " + "A=${A}" * 50_000,
     "FROM a\nRUN " + "apt-get install " * 20_000, "FROM a\n" + "ENV A=${A}${A}\n" * 2000, "FROM a\nRUN " + "\\\n" * 200_000,
     "FROM a\nRUN rm " + "-a " * 100_000 + "/var/lib/apt/x"],
    ids=range(7),
)  # fmt: skip
def test_large_files_end(text):
    judge(text)
