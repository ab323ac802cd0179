#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# In a Linux guest that goes from engine to engine: each line that it is told
# it looks whether all is as before, and says so.
/bin/busybox --install -s /bin
dmesg -n 1
head -c 400000 /dev/urandom >/tmp/data
sum=$(sha256sum </tmp/data)
# Each processor keeps a clock and memory busy.
for cpu in $(seq 0 $(($(nproc) - 1))); do
	taskset $((1 << cpu)) sh -c 'n=0
		while :; do
			usleep 50000
			n=$((n + 1))
			echo $n >/tmp/count.'$cpu'.new
			mv /tmp/count.'$cpu'.new /tmp/count.'$cpu'
		done' &
done

look() {
	[ "$(sha256sum </tmp/data)" = "$sum" ] || echo "GUEST-BAD memory"
	up=$(cut -d. -f1 /proc/uptime)
	[ "$up" -ge "$last" ] && [ "$up" -lt $((last + 300)) ] ||
		echo "GUEST-BAD clock $last $up"
	last=$up
	for f in /tmp/count.?; do
		before=$(cat $f)
		usleep 300000
		[ "$(cat $f)" -gt "$before" ] || echo "GUEST-BAD $f stands"
	done
	dmesg | grep -iE "unstable|soft lockup|stall|WARNING:|BUG:|Oops" &&
		echo "GUEST-BAD kernel"
	[ "$(sha256sum </dev/vda | cut -c 1-64)" = "$disk" ] ||
		echo "GUEST-BAD disk"
	echo "GUEST-LOOKED $1"
}

last=0
disk=$(sha256sum </dev/vda | cut -c 1-64)
sleep 1
dmesg -c >/dev/null
echo "GUEST-READY $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
while read -r line; do
	[ "$line" = off ] && break
	look "$line"
done
