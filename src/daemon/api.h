/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - a call of the REST API, from its request to its answer.
 *
 *	api.c        who calls, which route, the transaction around it
 *	routes.c     the table
 *	api_*.c      the handlers
 *	stream.c     answers that go on
 *	audit.c, auth.c
 */
#pragma once

#include "daemon/access/access.h"
#include "daemon/daemon.h"
#include "daemon/http.h"

struct row;

enum { PARAMS_MAX = 2, PARAM_MAX = 128 };

struct call {
	struct daemon *daemon;
	struct http_request *http;
	const struct route *route;
	struct caller caller;
	char params[PARAMS_MAX][PARAM_MAX]; /* the {parts} of the path */
	char project[PROJECT_SIZE]; /* of what it is about; "": the host's */
	json_t *body;               /* NULL: none */

	/* The answer. */
	int status;
	json_t *reply;    /* NULL: no body, or text */
	const char *type; /* of text */
	char *text;       /* instead of reply; owned */
	char *headers;    /* lines; owned */
	bool deferred;    /* a stream has http now */
	/* What is done once the registry has it all; ctx is the handler's. */
	void (*apply)(struct call *c, void *ctx);
	void (*drop)(void *ctx); /* instead, when it does not */
	void *ctx;
	struct error err;
};

enum route_body { BODY_NONE, BODY_JSON, BODY_MAYBE, BODY_RAW };

struct route {
	const char *method, *pattern; /* "/v1/vms/{vm}" */
	unsigned right;
	enum route_body body;
	const char *query; /* names that may be asked for, with spaces */
	void (*fn)(struct call *c);
	bool quiet; /* not worth an audit record */
	/* Where the right is needed, if the path does not say: policy.h. */
	bool some;
	bool host; /* though the path names a thing */
};

extern const struct route routes[]; /* ends with a NULL method */

/* For http/. */
void api_request(void *ctx, struct http_request *request);
void api_gone(void *ctx, struct http_request *request);

/* ---- for handlers ---- */

/* The one shape of all errors. */
json_t *error_json(const char *code, const char *words, const char *hint);
const char *error_code_of(int rc); /* for -errno */
void call_fail(struct call *c, const char *code, const char *words,
               const char *hint);
void call_fail_error(struct call *c, int rc);
/* Whole answers to a request that was deferred; body is taken over. */
void api_reply(struct http_request *http, int status, json_t *body);
void api_reply_error(struct http_request *http, const char *code,
                     const char *words, const char *hint);
void call_header(struct call *c, const char *name, const char *value);
/* true or false in the query, false if it is not there; false: the call has
 * failed. */
bool call_flag(struct call *c, const char *name, bool *on);
/* NULL: not asked for. Valid until the next call of this. */
const char *call_query(struct call *c, const char *name, char *room,
                       size_t size);
/* "a, b, c". */
const char *words_listed(const char *const *words, size_t count, char *room,
                         size_t size);
/* One of the words (NULL-ended) of the query, or NULL; fails the call where it
 * is another. */
const char *call_word(struct call *c, const char *name,
                      const char *const *words);
/* A number of the query in its range, or fallback; fails the call. */
s64 call_number(struct call *c, const char *name, s64 min, s64 max,
                s64 fallback);
/* The machine of the path; NULL, and the call has failed. */
struct vm *call_vm(struct call *c);
/* The same, if it runs or is paused. */
struct vm *call_vm_up(struct call *c);
/* May this caller know of it? */
bool call_sees(const struct call *c, const struct vm *vm);
/* If-Match agrees, or is absent; else the call has failed. */
bool call_match(struct call *c, s64 revision);
/* A key of the body that may be absent: fails the call on a wrong type. */
bool call_known_keys(struct call *c, const char *const *keys);
/* The answer is a list, of what element() makes of each row that sql finds
 * (store_query()), under that key; or the call has failed. */
void call_list(struct call *c, const char *key,
               json_t *(*element)(struct row *row), const char *sql,
               const char *kinds, ...);
/* Within its rights, its project's quotas, and with a name that is free: else
 * the call has failed. own_files: those that it names are the daemon's. */
bool call_may_make_vm(struct call *c, json_t *spec, bool own_files);
/* Into the registry. */
int call_write_vm(struct call *c, struct vm *vm) MUST_CHECK;
/* Changes a definition by a patch (RFC 7396), as the caller may. */
void call_change_vm(struct call *c, struct vm *vm, json_t *patch);
/* A new machine of a definition that was checked: 201, and the machine as the
 * answer. spec and params are taken over. kind: its first task, or NULL. */
void call_make_vm(struct call *c, json_t *spec, const char *id,
                  const char *kind, json_t *params);
/* A task that was written down, as the answer: 202, Location. NULL: the call
 * has failed with c->err. */
void call_task_answer(struct call *c, const struct task *t);
/* The same, and it is put into its queue. */
void call_enqueue(struct call *c, struct task *t);
/* A task of vm: 202, Location, and the task as the answer. */
void call_task(struct call *c, struct vm *vm, const char *kind, json_t *params);

/* ---- streams ---- */

void streams_event(struct daemon *d);
void streams_console(struct vm *vm);
void streams_task(struct daemon *d, s64 id);
void streams_vm_gone(struct vm *vm);
void stream_events(struct call *c, s64 after);
/* until_stopped: it ends when the machine has. */
void stream_console(struct call *c, struct vm *vm, u64 offset,
                    bool until_stopped);
void stream_task(struct call *c, s64 id, u64 wait_ns);
void streams_end(struct daemon *d);
/* Somebody may do less than before: what he looks on at, and may not, ends. */
void streams_check(struct daemon *d);

/* ---- who calls: auth.c ---- */

/* 0; -EACCES: nobody we know. */
int auth_caller(struct daemon *d, struct http_request *request,
                struct caller *caller, struct error *err) MUST_CHECK;
/* For answers that go on: what a caller may now. False: he does not come in
 * any more. */
bool auth_again(struct daemon *d, struct caller *caller);
/* What he came in with was for a time, and it is over. */
bool auth_expired(const struct caller *caller);
int auth_hash(const char *secret, char *hex, size_t size) MUST_CHECK;

/* ---- what was done: audit.c ---- */

struct record {
	const char *caller, *action, *target, *outcome;
	const char *project; /* NULL: the host's */
};
int audit_write(struct daemon *d, const struct record *record,
                struct error *err) MUST_CHECK;
json_t *audit_row_json(struct row *row);
/* 0: the chain holds; else the first record that does not fit. */
s64 audit_verify(struct daemon *d, s64 *records, char *last_hash, size_t size);

/* ---- shared with the tables' owners ---- */

#define TASK_COLUMNS                                                           \
	"id, vm_id, vm_name, kind, state, params, progress, words, result,"    \
	" error, caller, created, started, ended, project"
json_t *task_row_json(struct row *row);
json_t *event_row_json(struct row *row);
#define EVENT_COLUMNS "id, at, type, vm_id, vm_name, task, data, project"
/* Of rows that a SELECT finds, in their order: the first ?2, and the last. */
#define FIRST_OF(rows) rows " ORDER BY id LIMIT ?2"
#define LAST_OF(rows)                                                          \
	"SELECT * FROM (" rows " ORDER BY id DESC LIMIT ?2) ORDER BY id"
/* Of rows with a project, those that a caller may see: a condition with a list
 * of names, or NULL for all, of caller_projects(). */
#define PROJECT_AMONG(n)                                                       \
	"(" n " IS NULL OR project IN (SELECT value FROM json_each(" n ")))"
bool image_exists(const struct daemon *d, const char *name);
bool call_sees_image(struct call *c, const char *name);
void vm_discard_folder(struct daemon *d, const char *id);

/* ---- the handlers ---- */

void api_root(struct call *c);
void api_host(struct call *c);
void api_metrics(struct call *c);
void api_figures(struct call *c);
void api_vm_metrics(struct call *c);
void api_report_sizing(struct call *c);
void api_report_sprawl(struct call *c);
void api_alarm_list(struct call *c);
void api_alarm_create(struct call *c);
void api_alarm_delete(struct call *c);
void api_host_audit(struct call *c);
void api_policy_get(struct call *c);
void api_agent_get(struct call *c);
void api_agent_freeze(struct call *c);
void api_agent_exec(struct call *c);
void api_agent_exec_status(struct call *c);
void api_agent_read(struct call *c);
void api_agent_write(struct call *c);
void api_policy_patch(struct call *c);
void api_vm_list(struct call *c);
void api_vm_create(struct call *c);
void api_vm_get(struct call *c);
void api_vm_patch(struct call *c);
void api_vm_delete(struct call *c);
void api_vm_action(struct call *c);
void api_vm_start(struct call *c);
void api_vm_suspend(struct call *c);
void api_vm_fork(struct call *c);
void api_moment_list(struct call *c);
void api_moment_create(struct call *c);
void api_moment_get(struct call *c);
void api_moment_delete(struct call *c);
void api_moment_revert(struct call *c);
void api_moment_diff(struct call *c);
void api_vm_stop(struct call *c);
void api_vm_status(struct call *c);
void api_vm_log(struct call *c);
void api_console_read(struct call *c);
void api_console_write(struct call *c);
void api_console_size(struct call *c);
void api_network_list(struct call *c);
void api_network_create(struct call *c);
void api_network_get(struct call *c);
void api_network_delete(struct call *c);
void api_network_status(struct call *c);
void api_network_capture(struct call *c);
void api_backup_create(struct call *c);
void api_backup_list(struct call *c);
void api_backup_get(struct call *c);
void api_backup_delete(struct call *c);
void api_backup_restore(struct call *c);
void api_backup_verify(struct call *c);
void api_schedule_list(struct call *c);
void api_schedule_get(struct call *c);
void api_schedule_put(struct call *c);
void api_schedule_delete(struct call *c);
void api_disk_list(struct call *c);
void api_disk_throttle(struct call *c);
void api_disk_resize(struct call *c);
void api_disk_work(struct call *c);
void api_job_cancel(struct call *c);
void api_image_list(struct call *c);
void api_image_get(struct call *c);
void api_image_patch(struct call *c);
void api_project_list(struct call *c);
void api_project_create(struct call *c);
void api_project_get(struct call *c);
void api_project_patch(struct call *c);
void api_project_delete(struct call *c);
void api_user_list(struct call *c);
void api_user_create(struct call *c);
void api_user_get(struct call *c);
void api_user_patch(struct call *c);
void api_user_delete(struct call *c);
void api_grant_create(struct call *c);
void api_grant_delete(struct call *c);
void api_role_list(struct call *c);
void api_role_create(struct call *c);
void api_role_patch(struct call *c);
void api_role_delete(struct call *c);
void api_task_list(struct call *c);
void api_task_get(struct call *c);
void api_task_cancel(struct call *c);
void api_event_list(struct call *c);
void api_token_list(struct call *c);
void api_token_create(struct call *c);
void api_token_delete(struct call *c);
void api_audit_list(struct call *c);
void api_audit_verify(struct call *c);
