"""What a pod finds of its service account: token, certificate and namespace, and that they open the API."""

from __future__ import annotations

import json

import yaml

from tests.e2e.harness import Cluster, pod_document, wait_for

MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
# `python3` of the host image asks the API as any program in a pod would, with nothing but the three files.
ASK = f"""exec python3 -c '
import ssl, sys, urllib.request
token = open("{MOUNT}/token").read()
context = ssl.create_default_context(cafile="{MOUNT}/ca.crt")
url = sys.argv[1] + "/api/v1/namespaces/" + open("{MOUNT}/namespace").read() + "/configmaps"
request = urllib.request.Request(url, headers={{"Authorization": "Bearer " + token}})
try:
    print(urllib.request.urlopen(request, context=context, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
' """


def server_of(cluster: Cluster) -> str:
    """The API server's address as a pod reaches it: the one that tokens' issuer tells."""
    found = json.loads(cluster.kubectl("get", "--raw", "/.well-known/openid-configuration").stdout)
    return str(found["jwks_uri"]).removesuffix("/openid/v1/jwks")


def ask(cluster: Cluster, namespace: str, name: str, server: str) -> str:
    cluster.apply(pod_document(name, ASK + server, restartPolicy="Never"), namespace)
    cluster.wait_pod(namespace, name, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"), "has ended")
    return cluster.kubectl("logs", name, "-n", namespace).stdout.strip()


def test_a_pod_asks_the_api_as_its_account(cluster: Cluster, namespace: str) -> None:
    server = server_of(cluster)
    assert ask(cluster, namespace, "stranger", server) == "403"
    account = f"{namespace}:default"
    cluster.kubectl(
        "create", "rolebinding", "viewer", "--clusterrole=view", f"--serviceaccount={account}", "-n", namespace
    )
    assert ask(cluster, namespace, "viewer", server) == "200"


def test_a_pod_may_do_without(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod_document("plain", "sleep 60", automountServiceAccountToken=False), namespace)
    assert not cluster.pod(namespace, "plain")["spec"].get("volumes")


def test_a_token_ends_with_its_pod(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod_document("short", f"cat {MOUNT}/token; echo; sleep 600"), namespace)
    cluster.wait_ready(namespace, "short")
    token = wait_for("the token", lambda: cluster.kubectl("logs", "short", "-n", namespace).stdout.strip())
    review = yaml.safe_dump({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}})

    def status() -> dict[str, object]:
        answer = cluster.kubectl("create", "-f", "-", "-o", "json", stdin=review)
        found: dict[str, object] = json.loads(answer.stdout)["status"]
        return found

    assert status()["authenticated"] is True
    cluster.kubectl("delete", "pod", "short", "-n", namespace, "--grace-period=1")
    wait_for("the token's end", lambda: not status().get("authenticated"))


def test_every_namespace_has_the_certificate_and_gets_it_back(cluster: Cluster, namespace: str) -> None:
    def data() -> dict[str, str]:
        answer = cluster.kubectl("get", "cm", "kube-root-ca.crt", "-n", namespace, "-o", "json", check=False)
        found: dict[str, str] = json.loads(answer.stdout)["data"] if answer.returncode == 0 else {}
        return found

    wait_for("the certificate", lambda: data().get("ca.crt", "").startswith("-----BEGIN CERTIFICATE-----"))
    cluster.kubectl("delete", "cm", "kube-root-ca.crt", "-n", namespace)
    wait_for("the certificate again", lambda: data().get("ca.crt"))
    cluster.kubectl("patch", "cm", "kube-root-ca.crt", "-n", namespace, "-p", '{"data":{"ca.crt":"no"}}')
    wait_for("the right certificate", lambda: data().get("ca.crt", "").startswith("-----BEGIN"))
