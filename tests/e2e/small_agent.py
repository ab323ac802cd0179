# SPDX-License-Identifier: Apache-2.0
"""An agent of a few lines for a small guest."""
import pathlib

import small_guest

# Speaks as much of the agent's protocol as is asked of it. The arguments are
# the strings of a JSON list: its escapes are undone, and each is a word.
AGENT = r"""#!/bin/busybox sh
mkdir -p /ran
port=$(grep -l org.qemu.guest_agent /sys/class/virtio-ports/*/name)
port=/dev/$(basename $(dirname $port))
exec 3<>$port
text() { echo "$line" | sed "s/.*\"$1\": *\([0-9]*\).*/\1/"; }
hook() {
	echo $1 >> /ran/still
	[ ! -e /ran/hook ] || sh /ran/hook $1 3>&-
}
say() { printf '{"return": %s}\n' "$1" >&3; }
while read -r line <&3; do
	case $line in
	*guest-sync-delimited*) printf '\377' >&3; say "$(text id)" ;;
	*guest-exec-status*)
		say "{\"exited\": true, \"exitcode\": $(cat /ran/code)}" ;;
	*guest-exec*)
		echo "$line" | sed 's/.*"arg": *\["//; s/"\], *"capture.*//
			s/", *"/\n/g' > /ran/words
		set --
		while read -r word; do
			set -- "$@" "$(printf '%b' "$(echo "$word" |
				sed 's/\\"/"/g')")"
		done < /ran/words
		sh "$@" > /ran/out 2>&1 3>&-
		echo $? > /ran/code
		say '{"pid": 7}' ;;
	*guest-get-time*) echo time >> /ran/asked; say "$(date +%s)000000000" ;;
	*guest-fsfreeze-freeze*) hook freeze; say 1 ;;
	*guest-fsfreeze-thaw*) hook thaw; say 1 ;;
	*guest-fsfreeze*) say '"thawed"' ;;
	*) printf '{"error": {"class": "CommandNotFound", "desc": "no"}}\n' >&3 ;;
	esac
done
"""


def build(cache, folder, modules):
    """As small_guest's, with the agent as /agent."""
    agent = pathlib.Path(folder, "agent")
    agent.write_text(AGENT, encoding="ascii")
    agent.chmod(0o755)
    return small_guest.build(cache, folder, modules + ["virtio_console"],
                             {"agent": str(agent)})
