/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/guest/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/guest/guest.h"

#define FILE_NAME "identity.new"

enum { TIMEOUT_S = 20, TRIES_MAX = 5, LOOKS_MAX = 60, WORDS_MAX = 200 };

/*
 * In the guest: the name, then the addresses of its cards in their order, which
 * is that of their slots. A card takes its address while it is up; whoever
 * asked for its lease is told to ask again, as the network knows nobody of the
 * new address: but for systemd-networkd, which sees that and does. With other
 * cards than those none is touched.
 *
 * Each program that it starts costs the copy memory of its own, a few hundred
 * KiB: so the shell does what it can.
 */
static const char script[] =
    "PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH; umask 022\n"
    "name=$1; shift; was=; bad=0; line_end='\n"
    "'\n"
    "hosts() {\n"
    "  all=; any=\n"
    "  while IFS= read -r line || [ \"$line\" ]; do\n"
    "    case $line in 127.0.1.1[[:space:]]*)\n"
    "      new=\n"
    "      for word in $line; do\n"
    "        case $word in\n"
    "          \"$was\") word=$name; any=1 ;;\n"
    "          \"$was\".*) word=$name.${word#*.}; any=1 ;;\n"
    "        esac\n"
    "        new=\"$new${new:+ }$word\"\n"
    "      done\n"
    "      line=$new ;;\n"
    "    esac\n"
    "    all=$all$line$line_end\n"
    "  done\n"
    "  [ \"$any\" ] || return 0\n"
    "  printf %s \"$all\" >/etc/hosts.new && mv /etc/hosts.new /etc/hosts\n"
    "}\n"
    "set -f\n"
    "read -r was </proc/sys/kernel/hostname\n"
    "if [ \"$was\" != \"$name\" ]; then\n"
    "  echo \"$name\" >/proc/sys/kernel/hostname || bad=1\n"
    "  [ ! -w /etc/hostname ] || echo \"$name\" >/etc/hostname || bad=1\n"
    "  case $was in *[!A-Za-z0-9-]*|'') ;; *)\n"
    "    [ ! -w /etc/hosts ] || hosts </etc/hosts || bad=1 ;;\n"
    "  esac\n"
    "fi\n"
    "set +f\n"
    "cards=; count=0\n"
    "for d in /sys/bus/pci/drivers/virtio-pci/*/virtio*/net/*; do\n"
    "  [ -e \"$d\" ] || continue\n"
    "  cards=\"$cards ${d##*/}\"; count=$((count + 1))\n"
    "done\n"
    "if [ $count -ne $# ]; then\n"
    "  echo \"cards:$cards\" >&2; exit 1\n"
    "fi\n"
    "runs() { [ -L \"/run/systemd/units/invocation:$1.service\" ]; }\n"
    "for card in $cards; do\n"
    "  mac=$1; shift\n"
    "  read -r now </sys/class/net/$card/address\n"
    "  [ \"$now\" != \"$mac\" ] || continue\n"
    "  if command -v ifquery >/dev/null &&\n"
    "    ifquery --state $card >/dev/null 2>&1\n"
    "  then\n"
    "    ifdown --force $card >/dev/null 2>&1\n"
    "    ip link set dev $card address $mac || bad=1\n"
    "    ifup --force $card >/dev/null || bad=1\n"
    "    continue\n"
    "  fi\n"
    "  ip link set dev $card address $mac || bad=1\n"
    "  if runs NetworkManager; then\n"
    "    nmcli device disconnect $card >/dev/null\n"
    "    nmcli device connect $card >/dev/null || bad=1\n"
    "  fi\n"
    "done\n"
    "exit $bad\n";

static char *file_path(const struct vm *vm)
{
	char *folder = vm_folder_path(vm);
	char *path = xasprintf("%s/" FILE_NAME, folder);

	free(folder);
	return path;
}

int identity_want(const struct vm *vm, struct error *err)
{
	char *path = file_path(vm);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600), rc = 0;

	if (fd < 0 || fsync(fd) < 0)
		rc = error_set(err, -errno, "%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	free(path);
	return rc;
}

static void done(struct identity *id)
{
	char *path = file_path(id->vm);

	if (unlink(path) < 0 && errno != ENOENT)
		log_warn("daemon", "%s: %s", path, strerror(errno));
	free(path);
	id->step = IDENTITY_OVER;
}

/* Once more at its next round, or when the machine starts next. */
static void failed(struct identity *id, const char *words)
{
	id->step = ++id->tries < TRIES_MAX ? IDENTITY_WANTED : IDENTITY_OVER;
	if (id->step == IDENTITY_OVER)
		log_warn("daemon",
		         "%s: its guest could not be told that it is a copy: "
		         "%.*s",
		         id->vm->name, WORDS_MAX, words);
}

static void take_status(void *ctx, json_t *answer, const struct error *err)
{
	struct identity *id = ctx;
	struct agent_program program;
	struct error wrong = { 0 };

	if (!answer) {
		failed(id, err->text);
	} else if (agent_program(answer, &program, &wrong) < 0) {
		failed(id, wrong.text);
	} else if (!program.exited) {
		id->step = IDENTITY_RUNS;
		if (++id->looks == LOOKS_MAX)
			failed(id, "a program there does not end");
	} else if (program.code) {
		failed(id, "a program there failed");
	} else {
		log_info("daemon", "%s: its guest knows that it is a copy",
		         id->vm->name);
		done(id);
	}
}

static void take_start(void *ctx, json_t *answer, const struct error *err)
{
	struct identity *id = ctx;

	id->program = answer ? agent_number(answer, "pid") : -1;
	id->looks = 0;
	if (!answer)
		failed(id, err->text);
	else if (id->program < 0)
		failed(id, "an answer that is none");
	else
		id->step = IDENTITY_RUNS;
}

static void ask_start(struct identity *id)
{
	json_t *words = json_array(), *nic;
	size_t i;

	json_array_append_new(words, json_string("-c"));
	json_array_append_new(words, json_string(script));
	json_array_append_new(words, json_string("atoll"));
	json_array_append_new(words, json_string(id->vm->name));
	json_array_foreach(json_object_get(id->vm->spec, "nics"), i, nic)
	    json_array_append(words, json_object_get(nic, "mac"));
	id->step = IDENTITY_ASKED;
	guest_ask(id->vm, "guest-exec",
	          json_pack("{s:s, s:o, s:b}", "path", "/bin/sh", "arg", words,
	                    "capture-output", 1),
	          AGENT_ANSWER_USUAL, TIMEOUT_S, take_start, id);
}

static void look(struct identity *id)
{
	char *path = file_path(id->vm);

	id->step = access(path, F_OK) == 0 ? IDENTITY_WANTED : IDENTITY_OVER;
	free(path);
}

void identity_round(struct identity *id, struct vm *vm)
{
	id->vm = vm;
	if (id->step == IDENTITY_UNKNOWN)
		look(id);
	/* Of a definition that is not what runs, cards are not known. */
	if (id->step == IDENTITY_WANTED && vm->run_revision == vm->revision) {
		ask_start(id);
	} else if (id->step == IDENTITY_RUNS) {
		id->step = IDENTITY_ASKED;
		guest_ask(vm, "guest-exec-status",
		          json_pack("{s:I}", "pid", (json_int_t)id->program),
		          AGENT_ANSWER_USUAL, TIMEOUT_S, take_status, id);
	}
}
