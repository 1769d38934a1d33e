#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Sets one server of the Pacemaker pair up, step by step; the lab calls each step on both.
set -eu

# name NAME: what this server is called; its addresses follow.
name() {
	echo "$1" >/etc/hostname
	hostname "$1"
	printf '127.0.0.1 localhost\n192.168.77.1 a\n192.168.77.2 b\n' >/etc/hosts
	systemctl daemon-reload
	systemctl restart systemd-networkd
	until ip -brief address show br0 | grep -q 10.0.2.5; do sleep 1; done
}

# volumes MIB: the VM's two disks on the data disk, blank on both servers.
volumes() {
	vgcreate --quiet site /dev/disk/by-id/virtio-data
	lvcreate --quiet --yes --wipesignatures n --zero n -L "$1M" -n system site
	lvcreate --quiet --yes --wipesignatures n --zero n -L 72M -n data site
	drbdadm create-md --force vm
	drbdadm up vm
}

# fill: both copies are blank, so no first sync; then the template's system disk.
fill() {
	until [ "$(grep -c 'cs:Connected' /proc/drbd)" = 2 ]; do sleep 1; done
	for minor in 0 1; do
		/usr/lib/drbd/drbdsetup-84 new-current-uuid "$minor" --clear-bitmap
	done
	until [ "$(grep -c 'ds:UpToDate/UpToDate' /proc/drbd)" = 2 ]; do sleep 1; done
	drbdadm primary vm
	dd if=/dev/disk/by-id/virtio-used of=/dev/drbd0 bs=1M oflag=direct conv=fsync
	drbdadm secondary vm
}

# cluster: DRBD is Pacemaker's from now on.
cluster() {
	drbdadm down vm
	systemctl enable --now corosync pacemaker
	sync
}

step=$1
shift
"$step" "$@"
