/* SPDX-License-Identifier: Apache-2.0 */
/*
 * resource.h - nouns that are a list at a path of the API, with things of one
 * name each.
 */
#pragma once

#include "cli/remote.h"

/* atoll NOUN list: GET path, of which key is the list. */
int resource_list(const char *usage, const char *summary, const char *path,
                  const char *key, const struct column *columns, int argc,
                  char **argv);
/* The same of things that are in projects: with --project. */
int resource_list_of_projects(const char *usage, const char *summary,
                              const char *path, const char *key,
                              const struct column *columns, int argc,
                              char **argv);
/* atoll NOUN show NAME: GET path/NAME, as the one line of such a table. */
int resource_show(const char *usage, const char *summary, const char *path,
                  const struct column *columns, int argc, char **argv);
/* The same of what the API only lists: the one of such a name in it. */
int resource_find(const char *usage, const char *summary, const char *path,
                  const char *key, const struct column *columns, int argc,
                  char **argv);
/*
 * atoll NOUN create NAME or set NAME: one call with what the options put into
 * a body (body.h; keys as body_option() takes them). create: POST path, the
 * name in the body; else PATCH path/NAME, and the body must hold something.
 */
struct body_key;
int resource_write(const char *usage, const char *summary, const char *path,
                   bool create, const struct option_spec *specs,
                   const struct body_key *keys, int argc, char **argv);
/* atoll NOUN delete NAME...: asks, and DELETE path/NAME. what: one of them, as
 * the question calls it. */
int resource_delete(const char *usage, const char *summary, const char *path,
                    const char *what, int argc, char **argv);
/* One call whose answer is printed: as JSON, or by its key of words that are
 * shown in a table's stead (NULL: nothing). body is taken over. */
int resource_call(struct remote *r, const char *method, const char *path,
                  json_t *body, const char *key);
/* path + "/" + name, escaped; owned. */
char *resource_path(const char *path, const char *name) MUST_CHECK;
