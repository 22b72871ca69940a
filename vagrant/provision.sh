#!/bin/sh
# Make this machine (Debian 12 or Ubuntu, as root) a control plane or a node of a pyk cluster:
#
#   provision.sh server [OPTIONS OF 'pyk server']
#   provision.sh agent --server https://ADDRESS:6443 --token TOKEN [OPTIONS OF 'pyk agent']
#
# PYK_WHEEL is the wheel to install, or a folder of wheels (then nothing is fetched from an index); without it the
# checkout that this script is in is installed. A second run changes only what differs.
set -eu

fail() {
    echo "provision.sh: $1" >&2
    exit 1
}

what=${1:-}
case "$what" in
server | agent) shift ;;
*) fail "say what this machine is: server or agent" ;;
esac
[ "$(id -u)" = 0 ] || fail "run it as root"
command -v apt-get >/dev/null || fail "this works on Debian 12 and Ubuntu: there is no apt-get"

home=/opt/pyk
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
wheel=${PYK_WHEEL:-$here}

needed="python3 python3-venv nftables iproute2 kmod"
if [ "$what" = server ]; then
    # Debian's etcd-server starts an etcd of its own when it is installed; pyk runs its member itself.
    for word in "$@"; do
        case "$word" in
        etcd | --store=etcd | --join | --join=*) needed="$needed etcd-server" ;;
        esac
    done
else
    needed="$needed busybox-static"
fi
missing=""
for package in $needed; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "installing$missing"
    case "$missing" in
    *etcd-server*) systemctl mask etcd.service >/dev/null 2>&1 || true ;;
    esac
    apt-get update -qq || true
    # The list is of words on purpose.
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

[ -x "$home/bin/python" ] || python3 -m venv "$home"
if [ -d "$wheel" ] && [ ! -e "$wheel/pyproject.toml" ]; then
    "$home/bin/pip" install --quiet --disable-pip-version-check --no-index --find-links "$wheel" --upgrade pyk-orchestrator
else
    constraint=""
    [ ! -e "$here/requirements.lock" ] || constraint="--constraint $here/requirements.lock"
    # shellcheck disable=SC2086
    "$home/bin/pip" install --quiet --disable-pip-version-check $constraint --upgrade "$wheel"
fi
ln -sf "$home/bin/pyk" /usr/local/bin/pyk

# Pods' packets are routed; nothing else is asked of the machine.
cat >/etc/sysctl.d/90-pyk.conf <<'SETTINGS'
net.ipv4.ip_forward = 1
SETTINGS
sysctl -q -p /etc/sysctl.d/90-pyk.conf || true

"$home/bin/pyk" install "$what" --program "$home/bin/pyk" "$@"
