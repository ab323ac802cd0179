/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm.h - the verbs on machines that a daemon keeps.
 */
#pragma once

#include <jansson.h>

#include "cli/command.h"

struct error;
struct option_spec;
struct remote;

int command_vm(int argc, char **argv);
int command_launch(int argc, char **argv);
int command_task(int argc, char **argv);
int command_event(int argc, char **argv);
int command_token(int argc, char **argv);
int command_audit(int argc, char **argv);
int command_backup(int argc, char **argv);
int command_stack(int argc, char **argv);
/* One of the verbs of vm by itself: atoll start. */
int command_vm_verb(int argc, char **argv);
int command_shell(int argc, char **argv);

int vm_create(int argc, char **argv);
/* A new machine, as the daemon answered: printed, and waited for until it has
 * its disks. An exit code. */
int vm_made(struct remote *r, json_t *vm, const char *name);
int vm_set(int argc, char **argv);
int vm_show(int argc, char **argv);
int vm_rename(int argc, char **argv);
int vm_attach(int argc, char **argv);
int vm_detach(int argc, char **argv);

/* An absolute path: the daemon has another working directory. NULL. */
json_t *definition_path(const char *path, struct error *err) MUST_CHECK;
/* A list of a definition, made if it is not there; borrowed. */
json_t *definition_list(json_t *spec, const char *key);
/* What --image-disk says. */
int definition_image_disk(json_t *spec, const char *value,
                          struct error *err) MUST_CHECK;
/* A disk's limits for people: ", 100 requests/s, 8 MiB/s", or nothing. */
const char *disk_limits_words(json_t *disk, char *room, size_t size);
/* What --disk and --net say, put into a definition's "disks" and "nics". */
int definition_add_disk(json_t *spec, const char *value,
                        struct error *err) MUST_CHECK;
int definition_add_net(json_t *spec, const char *value,
                       struct error *err) MUST_CHECK;

int vm_console(int argc, char **argv);

/* noun, then one of a table's verbs. */
int command_noun(const struct command *verbs, const char *summary, int argc,
                 char **argv);
