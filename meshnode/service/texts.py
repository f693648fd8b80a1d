"""What a service manager is given to start the agent: systemd's unit, launchd's property list, a Windows task. Pure.

Nothing of the agent's settings is in it, so that `config.toml` stays the one place for them.
"""

from __future__ import annotations

import plistlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from xml.sax.saxutils import escape

LABEL = "org.meshnode.agent"
UNIT = "meshnode.service"
STATE = "/var/lib/meshnode"
"""The home of a system's service, which systemd makes."""
WATCHDOG_S = 30
STOP_S = 15
"""It drains for three seconds, and workers may take as long to end."""

_ALL_USERS = """
# What the processes need that run models is left: Landlock and seccomp to confine themselves, memfd, threads.
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp
SystemCallErrorNumber=EPERM
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
UMask=0077
# Not MemoryDenyWriteExecute: the drivers of GPUs compile code while they run.
""".strip()

_SYSTEM = """
ProtectSystem=strict
PrivateTmp={tmp}
ProtectHome={homes}
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectHostname=yes
RemoveIPC=yes
CapabilityBoundingSet=
AmbientCapabilities=
# Not PrivateDevices, nor ProtectClock, which closes /dev as well: GPUs are there. Not ProtectProc: how busy other
# programs are decides whether this machine takes work.
""".strip()


@dataclass(frozen=True, slots=True)
class Service:
    """One agent that a manager runs.

    Args:
        program: the words that start `meshnode`, the first an absolute path.
        home: its home.
        system: of the machine, or else of the user who is logged in.
        user: under which the system runs it.
        before: a program that must end well before each start.
        own_tmp: it may have a /tmp of its own. Not when its socket, or what it is made of, lies in the common one.
        reads: where what it is made of lies beside the program: Python, packages.
    """

    program: tuple[str, ...]
    home: PurePath
    system: bool = False
    user: str = ""
    before: str = ""
    own_tmp: bool = True
    reads: tuple[PurePath, ...] = ()


def systemd(it: Service) -> str:
    """The unit."""
    service = ["Type=notify", "NotifyAccess=main"]
    if it.system:
        service += [f"User={it.user}", f"Group={it.user}"]
    if it.system and str(it.home) == STATE:
        service += ["StateDirectory=meshnode", "StateDirectoryMode=0700"]
    elif it.system:
        service += [f"ReadWritePaths={_path(it.home)}"]
    service += [f"Environment={_word(f'MESHNODE_HOME={it.home}')}"]
    if it.before:
        service += [f"ExecStartPre={_words([it.before])}"]
    service += [
        f"ExecStart={_words([*it.program, 'up'])}",
        "# Nobody of the mesh may be up yet, or the clock not set: try until it works. Joining may take half a minute.",
        "Restart=always",
        # A wrong config.toml, or a node that is out of its mesh: again would not help.
        *(["RestartSec=10"] if it.before else ["RestartSec=2", "RestartPreventExitStatus=2 4"]),
        "TimeoutStartSec=2min",
        "# SIGTERM: nothing new is taken, what waits goes to other nodes, what runs may end, then all ends.",
        f"TimeoutStopSec={STOP_S}",
        "KillMode=mixed",
        f"WatchdogSec={WATCHDOG_S}",
        _ALL_USERS,
    ]
    if it.system:
        paths = (it.home, PurePath(it.program[0]), *it.reads)
        inside = any(path.is_relative_to(top) for path in paths for top in HOMES)
        homes = "read-only" if inside else "yes"
        service += [_SYSTEM.format(tmp="yes" if it.own_tmp else "no", homes=homes)]
    else:
        service += ["# Views of the file system of its own, as a system's service has: not every user's manager may."]
    after = "network-online.target time-sync.target" if it.system else "network.target"
    wants = ["Wants=network-online.target"] if it.system else []
    unit = ["Description=meshnode agent", *wants, f"After={after}", "StartLimitIntervalSec=0"]
    install = ["WantedBy=multi-user.target" if it.system else "WantedBy=default.target"]
    parts = (("Unit", unit), ("Service", service), ("Install", install))
    return "\n".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in parts)


HOMES = ("/home", "/root", "/run/user")


def launchd(it: Service) -> str:
    """The property list; launchd has no readiness and no watchdog."""
    said = str(it.home / "service.log")
    document = {
        "Label": LABEL,
        "ProgramArguments": [*it.program, "up"],
        "EnvironmentVariables": {"MESHNODE_HOME": str(it.home)},
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": 10,
        "ExitTimeOut": STOP_S,
        "ProcessType": "Adaptive",
        "Umask": 0o077,
        "StandardOutPath": said,
        "StandardErrorPath": said,
        **({"UserName": it.user} if it.system and it.user else {}),
    }
    return plistlib.dumps(document, sort_keys=False).decode()


def windows(it: Service) -> str:
    """A task for `schtasks /Create /XML`: at the start of the machine, or when the user logs in."""
    command, words = it.program[0], (*it.program[1:], "--home", str(it.home), "up")
    arguments = " ".join(f'"{word}"' if " " in word else word for word in words)
    trigger = "BootTrigger" if it.system else "LogonTrigger"
    who = "<UserId>S-1-5-19</UserId>" if it.system else "<LogonType>InteractiveToken</LogonType>"
    return f"""<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo><Description>meshnode agent</Description></RegistrationInfo>
  <Triggers><{trigger}><Enabled>true</Enabled></{trigger}></Triggers>
  <Principals><Principal id="Author">{who}<RunLevel>LeastPrivilege</RunLevel></Principal></Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure><Interval>PT1M</Interval><Count>999</Count></RestartOnFailure>
  </Settings>
  <Actions Context="Author">
    <Exec><Command>{escape(command)}</Command><Arguments>{escape(arguments)}</Arguments></Exec>
  </Actions>
</Task>
"""


def _words(words: Sequence[str]) -> str:
    return " ".join(_word(word).replace("$", "$$") for word in words)


def _word(text: str) -> str:
    """As systemd reads it: `%` begins a specifier, and quotes hold blanks together."""
    text = text.replace("%", "%%")
    if not text or any(c in " \t\"'\\;" for c in text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def _path(path: PurePath) -> str:
    return _word(str(path))
