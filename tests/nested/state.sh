#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# One machine from engine to engine: state.sh elf|live|linux CPUS ENGINE...
# The guest (tests/guest/state.c, state_guest.sh) says whether all is as before.
# state.sh demand CPUS ENGINE: memory that comes while it runs there already.
# $more is more for atoll run.
/bin/busybox --install -s /bin
export ATOLL_STATE_DIR=/tmp/s ATOLL_RUNTIME_DIR=/tmp/r
kind=$1 cpus=$2 first=$3
shift 3
[ $kind = linux ] && fast=--fast || fast=

# What is typed from now on; what nobody read is gone.
new_input() {
	rm -f /tmp/in
	mkfifo /tmp/in
	exec 3<>/tmp/in
}
new_input

fail() {
	echo "state: $*"
	cat /tmp/out
	exit 1
}

# The console says this before the machine has ended.
await() {
	until grep -q "$1" /tmp/out; do
		kill -0 $pid 2>/dev/null || fail "no '$1'"
		sleep 0.1
	done
}

# It may not have its socket yet.
ask() {
	until atoll "$@" 2>/tmp/words; do
		grep -q "no machine named" /tmp/words || fail "$(cat /tmp/words)"
		sleep 0.1
	done
}

linux_looks() {
	[ $kind = linux ] || return 0
	echo "$1" >&3
	await "GUEST-LOOKED $1"
	! grep GUEST-BAD /tmp/out || fail "under $1"
}

# From engine to engine, in both forms of saved memory.
go_round() {
	for engine in "$@"; do
		ask suspend $fast m
		wait $pid || fail "suspended with code $?"
		atoll resume m --engine "$engine" <&3 >/tmp/out 2>&1 &
		pid=$!
		linux_looks "$engine"
		echo "state: $engine"
		[ "$fast" ] && fast= || fast=--fast
	done
}

elf_ends() {
	echo g >&3
	wait $1
	code=$?
	[ $code = 1 ] && grep "same after" $2 || fail "code $code"
}

# A machine of the file $1, which is told $2 when its output shows $3, to its
# end. A host that is very busy makes the engine refuse: then once more.
restore() {
	while :; do
		new_input
		ATOLL_DEBUG=1 atoll run --restore $1 --engine $first $more \
			--report json:/tmp/report <&3 >/tmp/out 2>&1 &
		pid=$!
		until grep -q "$3" /tmp/out || ! kill -0 $pid 2>/dev/null; do
			sleep 0.1
		done
		echo $2 >&3
		wait $pid
		code=$?
		grep -q "emulates kernel code" /tmp/out || break
	done
}

same() {
	restore /tmp/saved g "$1"
	[ $code = 1 ] && grep "same after" /tmp/out || fail "code $code"
}

# When all of its memory was there, in milliseconds, or null: before it ran.
whole() {
	[ $1 = null ] && same || same "all of memory was read"
	grep -Eq "\"memory_whole_ms\":$1" /tmp/report || fail "$(cat /tmp/report)"
	echo "state: $2: $(grep -oE '"(first_ins|memory_w)[^,]*' /tmp/report)"
}

# The guest looks at all of it at once. On the one processor there is, all may
# have been read before the guest has had its turn; not each time.
touched() {
	for i in 1 2 3 4 5 6 7 8 9 10; do
		same
		grep ' [1-9][0-9]* faults were answered' /tmp/out && return
	done
	fail "no faults"
}

# The file's memory is damaged where the guest looks when it is told g.
lost() {
	restore /tmp/damaged "$2" "${3:-nothing says this}"
	[ $code = $1 ] && grep -q damaged /tmp/out || fail "code $code"
}

# No thread of a machine's process is left; nobody asks how it ended.
gone() {
	for p in $(pidof atoll-vm); do
		grep -q "^State:.*Z" /proc/$p/status &&
			[ "$(ls /proc/$p/task)" = $p ] || return 1
	done
}

# Whatever its threads and the kernel's wait for then.
killed() {
	atoll run --restore /tmp/saved --engine $first <&3 >/tmp/out 2>&1 &
	pid=$!
	sleep $1
	kill -9 $pid
	until gone; do
		sleep 0.1
	done
}

damage() {
	cp /tmp/saved /tmp/damaged
	# The third section (docs/state-file.md).
	[ "$(dd if=$1 bs=1 skip=192 count=6 2>/dev/null)" = packed ] ||
		fail "no packed memory"
	set -- $(od -An -t u8 -j 208 -N 16 /tmp/damaged)
	dd if=/dev/zero of=/tmp/damaged bs=1 seek=$(($1 + $2 / 20)) count=16 \
		conv=notrunc 2>/dev/null
}

checks() {
	atoll host check | grep -q "^userfaultfd .* $1" || fail "host check"
}

demand() {
	checks works
	whole '[0-9]' "by the device"
	touched
	damage /tmp/saved
	lost 22
	lost 22 g ""
	more=--verify lost 1
	for i in 0.2 0.4 0.6; do
		killed $i
	done
	# By the system call, which a machine may not make here; then it may.
	rm /dev/userfaultfd
	checks user-mode
	whole null "not at all"
	lost 1
	echo 1 >/proc/sys/vm/unprivileged_userfaultfd
	checks works
	whole '[0-9]' "by the call"
	lost 22
}

common="--name m --engine $first --cpus $cpus --net none --timeout 500 $more"
case $kind in
linux)
	atoll run $common --memory 128M --kernel /guest/vmlinuz \
		--initrd /guest/initrd --disk /guest/disk,readonly --append \
		"console=ttyS0 quiet panic=-1 mitigations=off noxsave" \
		<&3 >/tmp/out 2>&1 &
	pid=$!
	await GUEST-READY
	linux_looks "$first"
	go_round "$@"
	echo off >&3
	wait $pid || fail "powered off with code $?"
	;;
elf | live | demand)
	# More to read than what the guest looks at.
	[ $kind = demand ] && head -c 33554432 /dev/urandom >/tmp/more &&
		common="$common --initrd /tmp/more" memory=128M
	atoll run $common --memory ${memory:-64M} --kernel /guest/state.elf \
		--device debug-exit <&3 >/tmp/out 2>&1 &
	pid=$!
	await ready
	;;
esac
case $kind in
elf)
	go_round "$@"
	elf_ends $pid /tmp/out
	;;
demand)
	ask suspend --to /tmp/saved m
	wait $pid || fail "suspended with code $?"
	demand
	;;
live) # A moment of it, while it goes on; then that, under the others.
	ask snapshot create m s
	cat /tmp/words
	elf_ends $pid /tmp/out
	for engine in "$@"; do
		ask snapshot revert m s
		atoll resume m --engine "$engine" <&3 >/tmp/out 2>&1 &
		elf_ends $! /tmp/out
		echo "state: $engine"
	done
	;;
esac
