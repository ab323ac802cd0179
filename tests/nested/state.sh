#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# One machine from engine to engine: state.sh elf|live|linux CPUS ENGINE...
# The guest (tests/guest/state.c, state_guest.sh) says whether all is as before.
# $more is more for atoll run.
/bin/busybox --install -s /bin
export ATOLL_STATE_DIR=/tmp/s ATOLL_RUNTIME_DIR=/tmp/r
kind=$1 cpus=$2 first=$3
shift 3
[ $kind = linux ] && fast=--fast || fast=
rm -f /tmp/in
mkfifo /tmp/in
exec 3<>/tmp/in

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
		[ "$fast" ] && [ $kind = elf ] && fast= || fast=--fast
	done
}

elf_ends() {
	echo g >&3
	wait $1
	code=$?
	[ $code = 1 ] && grep "same after" $2 || fail "code $code"
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
elf | live)
	atoll run $common --memory 64M --kernel /guest/state.elf \
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
