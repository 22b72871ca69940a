#!/bin/sh
# What `vagrant up` runs on each machine: machine.sh server|agent ADDRESS ADDRESS_OF_THE_FIRST_SERVER SERVERS
# What a machine joins with is in /tmp/pyk-join, which the first server's `pyk token create` printed.
set -eu
kind=$1
address=$2
first=$3
servers=$4

if [ "$kind" = agent ]; then
    set -- --node-ip "$address"
else
    set -- --advertise-address "$address" --tls-san 127.0.0.1
    [ "$servers" = 1 ] || set -- "$@" --store etcd
fi
if [ "$kind" = agent ]; then
    set -- "$@" --server "https://$first:6443" --token "$(cat /tmp/pyk-join)"
elif [ "$address" != "$first" ]; then
    set -- "$@" --join "https://$first:6443" --token "$(cat /tmp/pyk-join)"
fi
rm -f /tmp/pyk-join
exec sh /srv/pyk/vagrant/provision.sh "$kind" "$@"
