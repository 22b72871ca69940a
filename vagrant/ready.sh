#!/bin/sh
# What `vagrant up` ends with, on the first control plane: ready.sh COUNT [SECONDS]
# Waits until so many nodes are Ready, and prints them.
set -eu
count=$1
seconds=${2:-600}
KUBECONFIG=${KUBECONFIG:-/etc/pyk/admin.kubeconfig}
export KUBECONFIG

end=$(($(date +%s) + seconds))
while [ "$(pyk get nodes --no-headers 2>/dev/null | grep -cE '^[^ ]+ +Ready([ ,]|$)')" -lt "$count" ]; do
    if [ "$(date +%s)" -ge "$end" ]; then
        echo "not all of $count nodes are ready after $seconds s:" >&2
        pyk get nodes >&2 || true
        exit 1
    fi
    sleep 2
done
pyk get nodes
