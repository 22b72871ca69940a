"""The files that the node manages in every container: /etc/hosts, /etc/hostname, /etc/resolv.conf. Pure text.

Sources: the kubelet's `kubelet_pods.go` (hosts) and `dns.go`, and the Kubernetes documentation on DNS for pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyk.api.objects import Object, name_of, namespace_of

_LONGEST_HOSTNAME = 63
_KERNEL_HOSTNAME = 64
_MOST_NAMESERVERS = 3
_MOST_SEARCHES = 32

_HOSTS_HEAD = """\
# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


def hostname(pod: Object) -> str:
    """The pod's host name: as given, else its name, at most 63 characters."""
    spec = pod["spec"]
    given = spec.get("hostnameOverride") or spec.get("hostname") or name_of(pod)
    return str(given)[:_LONGEST_HOSTNAME].rstrip("-.")


def domain_name(pod: Object, cluster_domain: str) -> str:
    """The fully qualified name of a pod with a `subdomain`, else empty."""
    spec = pod["spec"]
    if spec.get("hostnameOverride") or not spec.get("subdomain"):
        return ""
    return f"{hostname(pod)}.{spec['subdomain']}.{namespace_of(pod)}.svc.{cluster_domain}"


def kernel_hostname(pod: Object, cluster_domain: str, node_name: str) -> str:
    """What `hostname` prints: the node's name with `hostNetwork`, the full name with `setHostnameAsFQDN`.

    Raises ValueError for a full name that is longer than the kernel's (uname(2): 64 bytes).
    """
    if pod["spec"].get("hostNetwork") and not pod["spec"].get("hostnameOverride"):
        return node_name
    if pod["spec"].get("setHostnameAsFQDN"):
        full = domain_name(pod, cluster_domain) or hostname(pod)
        if len(full) > _KERNEL_HOSTNAME:
            raise ValueError(
                f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long "
                f"({_KERNEL_HOSTNAME} characters is the max, {len(full)} characters requested)"
            )
        return full
    return hostname(pod)


def hosts_file(pod: Object, addresses: Sequence[str], cluster_domain: str, host_content: str) -> str:
    """/etc/hosts: the node's own with `hostNetwork`, else one with the pod's names; then `hostAliases`."""
    if pod["spec"].get("hostNetwork"):
        text = "# Kubernetes-managed hosts file (host network).\n" + host_content
    else:
        names = "\t".join(filter(None, (domain_name(pod, cluster_domain), hostname(pod))))
        text = _HOSTS_HEAD + "".join(f"{address}\t{names}\n" for address in addresses)
    aliases = pod["spec"].get("hostAliases") or ()
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        for alias in aliases:
            text += "\t".join((alias["ip"], *(alias.get("hostnames") or ()))) + "\n"
    return text


def resolv_conf(pod: Object, host_content: str, cluster_dns: Sequence[str], cluster_domain: str) -> str:
    """/etc/resolv.conf by `dnsPolicy` and `dnsConfig`. Without a cluster DNS, ClusterFirst is Default."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers, searches, options = _parsed(host_content)
    if policy == "None":
        servers, searches, options = [], [], []
    elif policy in ("ClusterFirst", "ClusterFirstWithHostNet") and cluster_dns:
        servers = list(cluster_dns)
        own = [f"{namespace_of(pod)}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain]
        searches, options = own + searches, ["ndots:5"]
    config = spec.get("dnsConfig") or {}
    servers = _unique([*servers, *(config.get("nameservers") or ())])[:_MOST_NAMESERVERS]
    searches = _unique([*searches, *(config.get("searches") or ())])[:_MOST_SEARCHES]
    merged = {option.partition(":")[0]: option for option in options}
    for option in config.get("options") or ():
        value = option.get("value")
        merged[option["name"]] = option["name"] if value is None else f"{option['name']}:{value}"
    lines = [f"nameserver {server}" for server in servers]
    lines += [f"search {' '.join(searches)}"] if searches else []
    lines += [f"options {' '.join(merged.values())}"] if merged else []
    return "".join(f"{line}\n" for line in lines)


def _parsed(content: str) -> tuple[list[str], list[str], list[str]]:
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in content.splitlines():
        words = line.split()
        match words[:1]:
            case ["nameserver"] if len(words) > 1:
                servers.append(words[1])
            case ["search"]:
                searches = words[1:]  # the last line holds
            case ["options"]:
                options = words[1:]
    return servers, searches, options


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
