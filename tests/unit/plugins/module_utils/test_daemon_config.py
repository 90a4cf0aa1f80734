# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""daemon.json: what is kept, what is refused, what the running engine needs, and what a kill leaves behind."""

from __future__ import annotations

import copy
import json
import os
import time

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _daemon_config as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineUnavailable
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.trees import lay

SETTINGS = {
    "live-restore": True,
    "log-driver": "json-file",
    "log-opts": {"max-size": "10m", "max-file": "3"},
    "log-level": "info",
    "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 65536, "Hard": 65536}},
    "userland-proxy": False,
    "icc": False,
    "no-new-privileges": True,
}
NOFILE = {"Name": "nofile", "Soft": 1024, "Hard": 4096}


# -- merge ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "result", "kept"),
    [
        ({}, SETTINGS, {}),
        ({"data-root": "/srv/docker"}, {**SETTINGS, "data-root": "/srv/docker"}, {}),
        ({"log-level": "warn"}, {**SETTINGS, "log-level": "warn"}, {"log-level": "warn"}),
        (
            {"log-opts": {"max-size": "50m", "compress": "true"}},
            {**SETTINGS, "log-opts": {"max-size": "50m", "max-file": "3", "compress": "true"}},
            {"log-opts.max-size": "50m"},
        ),
        ({"default-ulimits": {"nofile": NOFILE}}, {**SETTINGS, "default-ulimits": {"nofile": NOFILE}},
         {"default-ulimits.nofile": NOFILE}),
        # another driver does not know max-size: containers would not start with it
        (
            {"log-driver": "journald"},
            {**{k: v for k, v in SETTINGS.items() if k != "log-opts"}, "log-driver": "journald"},
            {"log-driver": "journald"},
        ),
        ({"debug": False}, {**SETTINGS, "debug": False}, {}),
    ],
)  # fmt: skip
def test_merge_keeps_what_a_person_set(current, result, kept):
    merged = core.merge(current, SETTINGS)
    assert merged.problems == []
    assert merged.config == result
    assert merged.kept == kept


@pytest.mark.parametrize(
    ("current", "where", "what"),
    [
        ({"icc": True}, "icc", "is true, which contradicts the hardened value false"),
        ({"live-restore": False}, "live-restore", "is false, which contradicts the hardened value true"),
        ({"log-driver": "none"}, "log-driver", 'is "none", which contradicts the hardened value "json-file"'),
        ({"log-level": "debug"}, "log-level", 'is "debug", which contradicts the hardened value "info"'),
        (
            {"log-opts": {"max-size": "-1"}},
            "log-opts.max-size",
            'is "-1", which contradicts the hardened value "10m"',
        ),
        ({"log-opts": {"max-file": 3}}, "log-opts.max-file", 'is 3, which contradicts the hardened value "3"'),
        ({"log-opts": "x"}, "log-opts.max-size", 'is "x", which contradicts the hardened value "10m"'),
        (
            {"default-ulimits": {"nofile": {"Name": "nofile", "Soft": -1, "Hard": -1}}},
            "default-ulimits.nofile",
            'is {"Hard": -1, "Name": "nofile", "Soft": -1}, which contradicts the hardened value '
            '{"Hard": 65536, "Name": "nofile", "Soft": 65536}',
        ),
        (
            {"debug": True},
            "debug",
            "is true, which contradicts the hardened value false "
            "(debug logging writes request bodies and environment to the journal)",
        ),
    ],
)
def test_merge_refuses_what_contradicts(current, where, what):
    problems = core.merge(current, SETTINGS).problems
    assert {"where": f"/etc/docker/daemon.json: {where}", "what": what} in [
        {"where": item["where"], "what": item["what"]} for item in problems
    ]


def test_all_contradictions_are_named_at_once_with_the_fix():
    problems = core.merge({"icc": True, "userland-proxy": True}, SETTINGS).problems
    assert [core.sentence(item) for item in problems] == [
        "/etc/docker/daemon.json: userland-proxy: is true, which contradicts the hardened value false. "
        "Fix: remove the key or set it to false, or set mcpstack_docker_conflicts: override to replace it.",
        "/etc/docker/daemon.json: icc: is true, which contradicts the hardened value false. "
        "Fix: remove the key or set it to false, or set mcpstack_docker_conflicts: override to replace it.",
    ]


def test_override_replaces_and_says_what_was_there():
    merged = core.merge({"icc": True, "debug": True, "dns": ["192.0.2.1"]}, SETTINGS, override=True)
    assert merged.problems == []
    assert merged.config == {**SETTINGS, "dns": ["192.0.2.1"], "debug": False}
    assert merged.overridden == {"icc": True, "debug": True}


def test_extras_win_over_the_hardening_and_must_be_met_exactly():
    merged = core.merge({}, SETTINGS, {"icc": True, "log-opts": {"max-size": "1g"}, "dns": ["192.0.2.1"]})
    assert merged.config == {
        **SETTINGS,
        "icc": True,
        "log-opts": {"max-size": "1g", "max-file": "3"},
        "dns": ["192.0.2.1"],
    }
    assert [item["where"] for item in core.merge({"log-level": "warn"}, SETTINGS, {"log-level": "error"}).problems] == [
        "/etc/docker/daemon.json: log-level"
    ]


def test_another_driver_as_an_extra_takes_our_log_options_along():
    merged = core.merge({}, SETTINGS, {"log-driver": "journald"})
    assert "log-opts" not in merged.config
    # and it takes out those that an earlier run of ours wrote
    ours = {"log-driver": ["json-file"], "log-opts.max-size": ["10m"], "log-opts.max-file": ["3"]}
    merged = core.merge(SETTINGS, SETTINGS, {"log-driver": "journald"}, ours=ours)
    assert "log-opts" not in merged.config


def test_what_we_wrote_follows_the_options_and_goes_with_them():
    ours = {"log-opts.max-size": ["10m"], "dns": [["192.0.2.1"]]}
    current = {**SETTINGS, "dns": ["192.0.2.1"]}
    wanted = {**SETTINGS, "log-opts": {"max-size": "20m", "max-file": "3"}}
    assert core.merge(current, wanted, ours=ours).config == wanted
    assert core.merge(current, SETTINGS, ours=ours, original={"dns": ["192.0.2.9"]}).config["dns"] == ["192.0.2.9"]


def test_merging_twice_changes_nothing():
    once = core.merge({"data-root": "/srv"}, SETTINGS).config
    assert core.merge(copy.deepcopy(once), SETTINGS).config == once


@pytest.mark.parametrize(("ceiling", "hard", "soft"), [(None, 65536, 65536), (65536, 65536, 65536), (4096, 4096, 4096)])
def test_ulimit_stays_below_what_the_host_can_give(ceiling, hard, soft):
    settings, clamped = core.clamp_nofile(SETTINGS, ceiling)
    assert settings["default-ulimits"]["nofile"] == {"Name": "nofile", "Soft": soft, "Hard": hard}
    assert clamped == (hard != 65536)
    assert SETTINGS["default-ulimits"]["nofile"]["Hard"] == 65536


# -- the unit ---------------------------------------------------------------------------------------------------------

UNIT = """[Unit]
Description=Docker
[Service]
EnvironmentFile=-/etc/default/docker
ExecStart=/usr/sbin/dockerd -H fd:// \\
  --containerd=/run/containerd/containerd.sock $DOCKER_OPTS
ExecReload=/bin/kill -s HUP $MAINPID
"""


def test_flags_are_found_where_they_are_written(tmp_path):
    root = lay(
        tmp_path,
        {
            "usr/lib/systemd/system/docker.service": UNIT,
            "etc/default/docker": '# comment\nDOCKER_OPTS="--log-level=debug --icc=true --log-opt max-size=1m"\n',
            "etc/systemd/system/docker.service.d/10-x.conf": "[Service]\nEnvironment=X=1\n",
        },
    )
    flags = core.unit_flags(root)
    assert flags["hosts"] == ("fd://", "/usr/lib/systemd/system/docker.service: -H")
    assert flags["log-level"] == ("debug", "/etc/default/docker (DOCKER_OPTS): --log-level")
    assert flags["icc"] == (True, "/etc/default/docker (DOCKER_OPTS): --icc")
    assert flags["log-opts"][0] == {"max-size": "1m"}


def test_a_dropin_replaces_the_command_line(tmp_path):
    root = lay(
        tmp_path,
        {
            "lib/systemd/system/docker.service": UNIT,
            "etc/systemd/system/docker.service.d/override.conf": (
                "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --live-restore --default-ulimit nofile=1024:2048 -D\n"
            ),
        },
    )
    flags = core.unit_flags(root)
    assert set(flags) == {"live-restore", "default-ulimits", "debug"}
    assert flags["default-ulimits"][0] == {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}}


@pytest.mark.parametrize(
    ("dropin", "level"),
    [
        ("Environment=DOCKER_OPTS=--log-level=error", "debug"),  # the file wins, wherever it is named
        ("EnvironmentFile=", None),
        ("EnvironmentFile=\nEnvironment=DOCKER_OPTS=--log-level=error", "error"),
        ("EnvironmentFile=/etc/default/other", "warn"),
    ],
)
def test_variables_from_files_win_over_those_of_the_unit(tmp_path, dropin, level):
    root = lay(
        tmp_path,
        {
            "lib/systemd/system/docker.service": UNIT,
            "etc/default/docker": "DOCKER_OPTS=--log-level=debug\n",
            "etc/default/other": "DOCKER_OPTS=--log-level=warn\n",
            "etc/systemd/system/docker.service.d/10-x.conf": f"[Service]\n{dropin}\n",
        },
    )
    assert core.unit_flags(root).get("log-level", (None,))[0] == level


def test_a_flag_that_agrees_is_left_to_the_unit_and_one_that_does_not_is_refused():
    flags = {"live-restore": (True, "unit: --live-restore"), "icc": (True, "unit: --icc")}
    merged = core.merge({}, SETTINGS, flags=flags)
    assert "live-restore" not in merged.config
    assert [core.sentence(item) for item in merged.problems] == [
        "unit: --icc: the engine is started with a flag for 'icc' that sets it to true where icc must be false; "
        "with the key in the file as well the engine would not start. Fix: remove the flag there and run again."
    ]


def test_a_person_s_key_that_is_also_a_flag_is_refused():
    merged = core.merge({"data-root": "/srv"}, SETTINGS, flags={"data-root": ("/mnt", "unit: --data-root")})
    assert [item["where"] for item in merged.problems] == ["unit: --data-root"]


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (b"{,}", "p:1:2", "is not JSON (Expecting property name enclosed in double quotes)"),
        (b"[]", "p", "holds list, not an object"),
        (b"\xff\xfe", "p", "is not UTF-8 text (byte 0)"),
    ],
)
def test_a_broken_file_is_refused(data, where, what):
    with pytest.raises(core.DaemonConfigError) as caught:
        core.parse(data, "p")
    assert [(item["where"], item["what"]) for item in caught.value.problems] == [(where, what)]


@pytest.mark.parametrize("data", [None, b"", b" \n", b"\xef\xbb\xbf{}"])
def test_an_empty_file_has_no_settings(data):
    assert core.parse(data) == {}


# -- plan, do, give back ----------------------------------------------------------------------------------------------


class FakeEngine:
    """An engine with a state of its own: what it loaded at its last start or reload."""

    def __init__(self):
        self.up = True
        self.live_restore = False
        self.driver = "json-file"
        self.running: list[str] = []
        self.stopped: list[str] = []
        self.swarm = "inactive"
        self.icc = True

    def info(self):
        if not self.up:
            raise EngineUnavailable("down")
        return {
            "LiveRestoreEnabled": self.live_restore,
            "LoggingDriver": self.driver,
            "Swarm": {"LocalNodeState": self.swarm},
        }

    def get(self, path, params=None):
        if path == "/networks/bridge":
            return {"Options": {"com.docker.network.bridge.enable_icc": str(self.icc).lower()}}
        return [{"Names": [f"/{name}"], "Id": name} for name in self.running]


class Host:
    """A root directory, an engine, and systemctl that acts on both."""

    def __init__(self, root):
        self.root = root
        self.engine = FakeEngine()
        self.path = str(root / "etc/docker/daemon.json")
        self.journal = str(root / "var/lib/mcpstack/state/docker-daemon.json")
        self.calls: list[str] = []
        self.pid = 100
        self.starts = 0
        self.refuse = None
        (root / "proc/sys/kernel/random").mkdir(parents=True)
        (root / "proc/sys/kernel/random/boot_id").write_text("boot\n")
        self.start_process()
        self.engine.up = True

    def start_process(self):
        self.starts += 1
        self.pid = 100 + self.starts
        folder = self.root / f"proc/{self.pid}"
        folder.mkdir()
        ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) + 1
        (folder / "stat").write_text(f"{self.pid} (dockerd) S {'0 ' * 18}{ticks} 0\n")
        (folder / "status").write_text("CapEff:\t000001ffffffffff\n")
        (folder / "limits").write_text("Max open files            1024                 524288               files\n")

    def age(self, seconds):
        """Let the file be older than the engine."""
        os.utime(self.path, (time.time() - seconds, time.time() - seconds))

    def run(self, argv, timeout=0):
        if argv[:2] == ["systemctl", "show"]:
            state = "active" if self.engine.up else "inactive"
            pid = self.pid if self.engine.up else 0
            return 0, f"LoadState=loaded\nActiveState={state}\nMainPID={pid}\nUnitFileState=enabled\n", ""
        if argv[0] == "journalctl":
            return 0, "level=info\nfailed to start daemon: no such driver\n", ""
        verb = argv[1]
        self.calls.append(verb)
        config = core.parse(core.read_file(self.path))
        if verb == "reload":
            self.engine.live_restore = config.get("live-restore", False)
        if verb in ("restart", "start"):
            if self.refuse and self.refuse in config:
                self.engine.up = False
                return 1, "", "Job failed"
            if not self.engine.live_restore:
                self.engine.stopped += self.engine.running
                self.engine.running = []
            self.engine.up = True
            self.engine.live_restore = config.get("live-restore", False)
            self.engine.driver = config.get("log-driver", "json-file")
            self.start_process()
        return 0, "", ""

    def service(self):
        return core.Service(self.engine, self.run, str(self.root), sleep=lambda seconds: None)

    def plan(self, settings=None, **options):
        return core.plan(
            self.path, settings or SETTINGS, options.pop("extra", {}), core.Journal(self.journal), self.service(),
            root=str(self.root), **options,
        )  # fmt: skip

    def converge(self, settings=None, until="end", **options):
        """What the module does; until says where it is killed."""
        journal, service = core.Journal(self.journal), self.service()
        plan = core.plan(self.path, settings or SETTINGS, options.pop("extra", {}), journal, service,
                         root=str(self.root), **options)  # fmt: skip
        core.land(plan, journal)
        if until == "landed":
            return plan
        core.bring_up(plan, service, 1)
        if until == "restarted":
            return plan
        core.record_applied(plan, journal, service)
        return plan

    def write(self, config):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "w", encoding="utf-8") as handle:
            handle.write(config if isinstance(config, str) else json.dumps(config))

    def read(self):
        return core.parse(core.read_file(self.path))


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_first_run_writes_and_restarts_and_the_second_does_nothing(host):
    plan = host.converge()
    assert (plan.writes, plan.action) == (True, "restart")
    assert host.read() == SETTINGS
    assert os.stat(host.path).st_mode & 0o777 == 0o644
    assert os.stat(host.journal).st_mode & 0o777 == 0o600
    stamp = os.stat(host.path).st_mtime_ns, os.stat(host.journal).st_mtime_ns
    again = host.converge()
    assert (again.writes, again.action, host.calls.count("restart")) == (False, "none", 1)
    assert stamp == (os.stat(host.path).st_mtime_ns, os.stat(host.journal).st_mtime_ns)


def test_planning_changes_nothing_on_a_bare_host(host):
    host.engine.up = False
    plan = host.plan()
    assert (plan.writes, plan.action, plan.reason) == (True, "start", "the engine is not running")
    assert not os.path.exists(host.path) and not os.path.exists(host.journal)


@pytest.mark.parametrize("until", ["landed", "restarted"])
def test_a_run_killed_in_between_is_finished_by_the_next(host, until):
    host.converge(until=until)
    assert core.Journal(host.journal).data["applied"] is None
    again = host.converge()
    assert again.writes is False
    assert again.action == ("restart" if until == "landed" else "none")
    assert host.calls.count("restart") == 1
    assert host.engine.live_restore is True
    assert host.converge().action == "none"


def test_killed_between_journal_and_file_the_former_values_are_still_ours(host, monkeypatch):
    host.converge()
    wanted = {**SETTINGS, "log-opts": {"max-size": "20m", "max-file": "3"}, "shutdown-timeout": 30}
    real = core.write_atomic

    def killed(path, *args):
        if path == host.path:
            raise KeyboardInterrupt
        real(path, *args)

    monkeypatch.setattr(core, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        host.converge(wanted)
    monkeypatch.undo()
    assert host.read() == SETTINGS
    host.converge(wanted)
    assert host.read() == wanted
    assert host.converge(wanted).action == "none"


def test_a_reload_is_enough_for_reloadable_settings(host):
    host.converge()
    plan = host.converge({**SETTINGS, "shutdown-timeout": 30})
    assert (plan.action, plan.reason) == ("reload", "settings to take over: shutdown-timeout")
    assert host.converge({**SETTINGS, "shutdown-timeout": 30}).action == "none"


def test_killed_before_the_reload_the_next_run_reloads(host):
    host.converge()
    wanted = {**SETTINGS, "shutdown-timeout": 30}
    host.converge(wanted, until="landed")
    host.age(-5)  # the kernel counts a start in hundredths of a second, too coarse for a test
    plan = host.converge(wanted)
    assert (plan.writes, plan.action) == (False, "reload")
    assert plan.reason == "the running engine was started before the file was changed"


def test_running_containers_survive_because_live_restore_is_reloaded_first(host):
    host.engine.running = ["foreign"]
    plan = host.converge()
    assert plan.reload_first and plan.interrupted == []
    assert host.calls == ["reload", "reset-failed", "restart"]
    assert host.engine.running == ["foreign"] and host.engine.stopped == []


def test_without_live_restore_the_containers_that_stop_are_named(host):
    host.engine.running = ["foreign", "b"]
    plan = host.plan({**SETTINGS, "live-restore": False})
    assert plan.interrupted == ["b", "foreign"]


def test_a_file_that_fits_already_is_adopted_without_a_restart(host):
    host.write(SETTINGS)
    host.age(60)
    host.engine.live_restore = True
    plan = host.converge()
    assert (plan.writes, plan.action, host.calls) == (False, "none", [])


def test_a_file_that_fits_but_is_newer_than_the_engine_needs_a_restart(host):
    host.write(SETTINGS)
    os.utime(host.path, (time.time() + 5, time.time() + 5))
    plan = host.converge()
    assert (plan.writes, plan.action, plan.reason) == (False, "restart", "the running engine is older than the file")


def test_an_engine_that_does_not_say_what_the_file_says_is_restarted(host):
    host.converge()
    host.engine.live_restore = False
    plan = host.plan()
    assert (plan.action, plan.reason) == ("restart", "the running engine has live-restore false")


def test_an_engine_restarted_by_a_person_is_left_alone(host):
    host.converge()
    host.start_process()
    assert host.plan().action == "none"


def test_an_engine_that_does_not_start_gets_its_former_file_back(host):
    host.write({"data-root": "/srv"})
    host.age(60)
    host.refuse = "storage-driver"
    with pytest.raises(core.DaemonConfigError) as caught:
        host.converge(extra={"storage-driver": "nonsense"})
    assert str(caught.value) == (
        "docker.service: did not start with the new settings (failed to start daemon: no such driver); the former file "
        "was put back and the engine runs with it. Fix: see: journalctl -u docker, then correct the setting."
    )
    assert host.read() == {"data-root": "/srv"}
    assert host.engine.up


def test_a_swarm_node_is_not_given_live_restore(host):
    host.engine.swarm = "active"
    with pytest.raises(core.DaemonConfigError, match="refuses to start with live-restore"):
        host.plan()
    assert host.plan({**SETTINGS, "live-restore": False}).writes


def test_what_waits_for_a_start_without_containers_is_said(host):
    assert core.pending(SETTINGS, host.service()) == [
        "icc: the default bridge keeps its setting while containers run; "
        "it takes effect when the engine starts with none running"
    ]
    host.engine.icc = False
    assert core.pending(SETTINGS, host.service()) == []


@pytest.mark.parametrize("text", [None, "{}", '{ "data-root":"/srv" ,\n"log-level": "warn"}\n', ""])
def test_uninstall_gives_the_exact_file_back(host, text):
    if text is not None:
        host.write(text)
        os.chmod(host.path, 0o600)
        host.age(60)
    host.converge()
    host.converge({**SETTINGS, "shutdown-timeout": 30})
    journal = core.Journal(host.journal)
    core.restore(core.plan_restore(host.path, journal), journal)
    journal.forget()
    if text is None:
        assert not os.path.exists(os.path.dirname(host.path))
    else:
        with open(host.path, encoding="utf-8") as handle:
            assert handle.read() == text
        assert os.stat(host.path).st_mode & 0o777 == 0o600
    assert not os.path.exists(host.root / "var/lib/mcpstack")


def test_uninstall_keeps_what_a_person_wrote_since(host):
    host.write({"log-level": "warn", "icc": True})
    host.age(60)
    host.converge(override=True)
    edited = host.read()
    edited["dns"] = ["192.0.2.1"]
    edited["log-opts"]["max-size"] = "99m"
    host.write(edited)
    plan = core.plan_restore(host.path, core.Journal(host.journal))
    assert plan.config == {"log-level": "warn", "icc": True, "dns": ["192.0.2.1"], "log-opts": {"max-size": "99m"}}
    assert plan.notes == [f"{host.path} was edited since; only our settings were taken out of it."]


def test_uninstall_without_a_journal_changes_nothing(host):
    host.write({"icc": True})
    assert core.plan_restore(host.path, core.Journal(host.journal)).writes is False


def test_a_journal_that_cannot_be_read_is_refused(host):
    os.makedirs(os.path.dirname(host.journal))
    with open(host.journal, "w", encoding="utf-8") as handle:
        handle.write("{")
    with pytest.raises(core.DaemonConfigError, match="so what daemon.json held before is not known"):
        core.Journal(host.journal)


def test_limits_that_cannot_be_raised_are_seen(host):
    folder = host.root / f"proc/{host.pid}"
    assert host.service().nofile_ceiling is None
    (folder / "status").write_text("CapEff:\t000001fffeffffff\n")
    assert host.service().nofile_ceiling == 524288
    (folder / "limits").write_text("Max open files            1024                 4096                 files\n")
    plan = host.plan()
    assert plan.config["default-ulimits"]["nofile"]["Hard"] == 4096
    assert plan.notes == ["This host cannot raise hard limits; the default for open files is its limit of 4096."]


def test_a_refusal_of_dockerd_is_passed_on(monkeypatch):
    monkeypatch.setattr(core.shutil, "which", lambda *args, **kwargs: "/usr/sbin/dockerd")
    seen = []

    def run(argv, timeout=0):
        seen.append(argv)
        return 1, "", f"unable to configure the Docker daemon with file {argv[2].partition('=')[2]}: bad key"

    with pytest.raises(core.DaemonConfigError) as caught:
        core.validate({"x": 1}, "/etc/docker/daemon.json", run=run)
    assert "with file /etc/docker/daemon.json: bad key" in str(caught.value)
    assert seen[0][:2] == ["/usr/sbin/dockerd", "--validate"]
    assert core.validate({}, "p", run=lambda argv: (125, "", "unknown flag: --validate")) == "none"
    assert core.validate({}, "p", run=lambda argv: (0, "configuration OK", "")) == "dockerd"
