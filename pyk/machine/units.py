"""The systemd units of a control plane and of an agent. Pure: texts from a program's path and a config file's.

Both start after the network and the clock, and are started again whenever they end. What differs:

- The control plane needs next to nothing of the machine, so it gets next to nothing: a read-only system, no devices, no
  capabilities but those for reading its own files as root. Its programs end with it.
- The agent makes containers, so it must not be confined by anything that they would inherit: a mount namespace of its
  own would hide volumes from the next agent, seccomp filters and `NoNewPrivileges` would bind every container. What it
  started outlives it (`KillMode=process`), which is how it is upgraded without stopping a pod; `Delegate` tells systemd
  to leave the control groups alone.

Source: systemd.service(5), systemd.exec(5), systemd.kill(5), "Control Group APIs and Delegation".
"""

from __future__ import annotations

SERVER_UNIT, AGENT_UNIT = "pyk-server.service", "pyk-agent.service"
HEAD = "# Written by 'pyk install {what}'; changes belong into {unit}.d/*.conf, which it leaves alone.\n"
UNITS = {"server": SERVER_UNIT, "agent": AGENT_UNIT}

_SERVER = """\
[Unit]
Description=pyk control plane
Documentation=https://kubernetes.io/docs/concepts/overview/components/
Wants=network-online.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} server --config {config}
Restart=always
RestartSec=2
TimeoutStartSec=infinity
TimeoutStopSec=60
KillMode=mixed
LimitNOFILE=1048576
OOMScoreAdjust=-900
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_NET_BIND_SERVICE
ProtectSystem=strict
ReadWritePaths={writable}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""

_AGENT = """\
[Unit]
Description=pyk agent
Documentation=https://kubernetes.io/docs/concepts/overview/components/
Wants=network-online.target
After=network-online.target time-sync.target local-fs.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStartPre=-/sbin/modprobe -a overlay br_netfilter nf_tables vxlan
ExecStart={program} agent --config {config}
Restart=always
RestartSec=2
TimeoutStopSec=30
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
OOMScoreAdjust=-999
UMask=0022

[Install]
WantedBy=multi-user.target
"""


def text(what: str, program: str, config: str, writable: tuple[str, ...] = ()) -> str:
    """The unit of `server` or `agent`. `program` is the words of the `pyk` command; `writable` the server's folders."""
    template = {"server": _SERVER, "agent": _AGENT}[what]
    head = HEAD.format(what=what, unit=UNITS[what])
    return head + template.format(program=program, config=config, writable=" ".join(writable))
