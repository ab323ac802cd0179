/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atoll - the command line.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/agent.h"
#include "cli/command.h"
#include "cli/disk.h"
#include "cli/fork.h"
#include "cli/globals.h"
#include "cli/host.h"
#include "cli/net.h"
#include "cli/project.h"
#include "cli/say.h"
#include "cli/snapshot.h"
#include "cli/suspend.h"
#include "cli/vm.h"
#include "cli/watch.h"
#include "control/control.h"

static int command_help(int argc, char **argv);

static const struct command commands[] = {
	{ "run", "run a machine on this terminal", command_run },
	{ "pause", "hold a running machine", command_pause },
	{ "suspend", "save a running machine and end it", command_suspend },
	{ "resume", "go on with a paused or suspended machine",
	  command_resume },
	{ "fork", "copies of a running machine", command_fork },
	{ "snapshot", "moments of a machine, to go back to", cmd_snapshot,
	  true },
	{ "vm", "machines that a daemon keeps", command_vm, true },
	{ "launch", "make a machine from an image, and start it",
	  command_launch },
	{ "start", "start machines", command_vm_verb },
	{ "stop", "shut machines down", command_vm_verb },
	{ "restart", "stop machines, and start them", command_vm_verb },
	{ "kill", "end machines at once", command_vm_verb },
	{ "console", "a machine's terminal", command_vm_verb },
	{ "shell", "the same", command_shell },
	{ "exec", "run a program in a guest", command_exec },
	{ "cp", "copy a file into a guest, or out of it", command_cp },
	{ "top", "what machines use, as it happens", command_top },
	{ "metrics", "what a machine used", command_metrics },
	{ "alarm", "rules over what machines use", command_alarm, true },
	{ "report", "sizing, and machines nobody seems to need", command_report,
	  true },
	{ "stack", "a set of machines, from a file", command_stack, true },
	{ "backup", "what machines' disks held", command_backup, true },
	{ "net", "networks of machines", command_net, true },
	{ "task", "what the daemon was asked to do", command_task, true },
	{ "event", "what happened", command_event, true },
	{ "project", "whose machines are", command_project, true },
	{ "quota", "how much a project may have", command_quota, true },
	{ "user", "who may do what", command_user, true },
	{ "role", "what can be granted", command_role, true },
	{ "token", "access for others", command_token, true },
	{ "audit", "who did what", command_audit, true },
	{ "disk", "make, check, convert and change disk images", cmd_disk,
	  true },
	{ "image", "build, list, inspect and delete images", command_image,
	  true },
	{ "host", "tell what this host offers", cmd_host, true },
	{ "help", "explain a verb or a topic", command_help },
	{ 0 },
};

const struct command *command_find(const struct command *table,
                                   const char *what, const char *name)
{
	const char *near;
	size_t n = 0;

	for (; table[n].name; n++)
		if (strcmp(table[n].name, name) == 0)
			return &table[n];
	fprintf(stderr, "error: there is no %s %s\n", what, name);
	near = nearest(name, &table->name, n, sizeof(*table));
	if (near)
		fprintf(stderr, "hint: did you mean %s?\n", near);
	else
		fprintf(stderr, "hint: --help lists what there is\n");
	return NULL;
}

void command_list(const struct command *table)
{
	for (; table->name; table++)
		printf("  %-10s %s\n", table->name, table->summary);
}

static const char codes_text[] =
    "Exit codes of atoll run:\n"
    "   0  the guest powered off\n"
    "   1  the machine could not be started\n"
    "   2  a wrong option\n"
    "  16  triple fault\n"
    "  17  the engine gave up\n"
    "  18  --timeout ran out\n"
    "  19  ended from the console or by a signal\n"
    "  20  the machine's process died\n"
    "  21  the last writes to a disk were lost\n"
    "With --device debug-exit the guest chooses its code.\n\n"
    "Exit codes of the verbs that speak to a daemon:\n"
    "   0  done\n"
    "   1  failed\n"
    "   2  wrong options or values\n"
    "   3  not found\n"
    "   4  conflict: it is not in that state, or was changed\n"
    "   5  denied\n"
    "   6  no capacity\n"
    "   7  out of time; the task goes on\n"
    "   8  the daemon can't be reached\n"
    "   9  done for some, not for all\n";

static const char console_text[] =
    "The terminal is the machine's console. Ctrl-] opens a menu:\n"
    "  q  quit, as pulling the plug\n"
    "  p  power button: the guest shuts down\n"
    "  r  reset\n"
    "  s  pause and resume\n"
    "  ?  help\n"
    "Ctrl-] twice sends it to the guest.\n";

static const char engines_text[] =
    "An engine runs the guest's code:\n"
    "  kvm     the host's hardware virtualization\n"
    "  bt      binary translation: no hardware needed\n"
    "  interp  the reference interpreter: exact and slow\n"
    "  auto    kvm where it is really usable, else the best of the rest\n";

static const struct topic {
	const char *name, *summary, *text;
} topics[] = {
	{ "codes", "exit codes", codes_text },
	{ "console", "the terminal and its menu", console_text },
	{ "engines", "what runs the guest's code", engines_text },
};

static void print_overview(void)
{
	puts("usage: atoll [OPTION]... VERB [OPTION]...\n"
	     "       atoll [OPTION]... NOUN VERB [OPTION]...\n"
	     "       atoll --version | --help\n\n"
	     "Machines with operating systems of their own, on any Linux.\n\n"
	     "Verbs:");
	command_list(commands);
	puts("\nTopics (atoll help TOPIC):");
	for (size_t i = 0; i < ARRAY_SIZE(topics); i++)
		printf("  %-10s %s\n", topics[i].name, topics[i].summary);
	puts("\natoll VERB --help lists the options of a verb.");
}

static int command_help(int argc, char **argv)
{
	char *help[] = { NULL, NULL, NULL, NULL };
	const struct command *c;

	if (argc < 2 || strncmp(argv[1], "--", 2) == 0) {
		print_overview();
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(topics); i++)
		if (strcmp(argv[1], topics[i].name) == 0) {
			fputs(topics[i].text, stdout);
			return 0;
		}
	c = command_find(commands, "verb or topic", argv[1]);
	if (!c)
		return END_USAGE;
	if (c->fn == command_help) {
		print_overview();
		return 0;
	}
	help[0] = argv[1];
	/* "help vm list" too. */
	if (c->has_verbs && argc > 2)
		help[1] = argv[2];
	help[help[1] ? 2 : 1] = (char[]){ "--help" };
	return c->fn(help[1] ? 3 : 2, help);
}

int main(int argc, char **argv)
{
	const struct command *c;
	int code;

	log_setup(STDERR_FILENO, LOG_WARN, "atoll");
	if (argc < 2) {
		print_overview();
		return END_USAGE;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("atoll " ATOLL_VERSION);
		return 0;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		print_overview();
		return 0;
	}
	argv = globals_behind(commands, argc, argv);
	if (argv[1][0] == '-')
		code = say_usage("%s: no verb comes after it", argv[1]);
	else if (!(c = command_find(commands, "verb", argv[1])))
		code = END_USAGE;
	else
		code = c->fn(argc - 1, argv + 1);
	free(argv);
	return code;
}
