/* SPDX-License-Identifier: Apache-2.0 */
/*
 * daemon.h - what the parts of atolld share: machines, tasks, events.
 *
 * Everything here belongs to the one thread of the loop. What is in memory is
 * in the registry too (store.h), written first.
 */
#pragma once

#include <jansson.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/loop.h"
#include "base/place.h"
#include "base/types.h"
#include "daemon/access/rights.h"

struct alarm;
struct backup_schedules;
struct guest;
struct holder_start;
struct http;
struct holder;
struct network;
struct captured;
struct http_request;
struct limits;
struct store;
struct stream;
struct task;
struct vm;
struct vm_watch;
struct watch;

enum { ID_SIZE = 37, TIME_SIZE = 32 };

/* Unknown callers from one address, or user of this host: auth.c. */
struct wrong {
	char from[64];
	unsigned count;
	u64 last_ns;
};

struct daemon {
	struct loop *loop;
	struct place place;
	const char *listen; /* ADDRESS:PORT of the network; NULL: none */
	struct store *store;
	struct http *http;
	struct vm *vms;            /* in order of their names */
	struct network *networks;  /* the same: network.h */
	struct captured *captures; /* network_capture.c */
	struct task *image_queue;  /* tasks of no machine: image/work.c */
	unsigned vm_count;
	struct stream
	    *streams; /* answers that go on: events, consoles, waits */
	s64 first_event, last_event;
	u64 started_ns;
	u64 requests, requests_failed; /* for /metrics */
	u64 tasks_done, tasks_failed;
	struct wrong wrong[64];
	struct watch *watch;                /* watch/ */
	struct alarm *alarms;               /* by name */
	struct limits *limits;              /* limits/ */
	struct backup_schedules *schedules; /* backup/schedule.h */
	bool ending;
};

/* ---- machines: vm.c ---- */

enum vm_state { VM_STOPPED, VM_STARTING, VM_RUNNING, VM_PAUSED };

struct vm {
	struct daemon *daemon; /* borrowed */
	struct vm *next;
	char id[ID_SIZE];
	char *name;
	json_t
	    *spec; /* whole, with defaults (spec.c); never changed in place */
	char *spec_text[2]; /* the same as text, whole and brief: vm_list.c */
	s64 revision;
	char created[TIME_SIZE], updated[TIME_SIZE];
	bool wanted;   /* should run: what restarts and autostart go by */
	bool prepared; /* its disks are there */
	bool deleted;  /* out of the registry: goes when its task ends */
	bool arriving; /* a copy that is being made: its queue waits */
	bool saved;    /* goes on from what was saved: moment/ */
	/* Its guest has stood still, and has not been told the time since. */
	bool clock_late;
	/* limits/cpus.c: asked for in this run; the first that the guest may
	 * still have to be told of, and how often it will be. */
	unsigned cpus_given, cpus_new, cpus_tell;
	s64 run, run_revision; /* of the last start */
	/* What its holder was given, while there is one: the definition, which
	 * may have been changed since, and the disks, with the image's. NULL:
	 * it has not said so yet. */
	json_t *run_spec, *run_disks;
	json_t *last_end; /* NULL: never ended */

	enum vm_state state;
	char since[TIME_SIZE];
	u64 running_ns; /* when it came up */
	pid_t pid;
	u64 console_end;
	struct holder *holder; /* set while a holder is or may be there */

	/* The first one runs, and one that need not wait for it: task.c. */
	struct task *queue;
	bool clearing; /* several are being ended: none is begun */
	struct loop_timer restart;
	bool restart_open; /* whether there is one is asked when that is due */
	unsigned restarts; /* in a row, without a good run */

	struct guest *guest;    /* guest/; NULL: no agent was seen */
	struct still *still;    /* guest/still.c; NULL: nothing stands still */
	struct vm_watch *watch; /* watch/sample.c; NULL: never ran */
	/* Its own disk is being made that large; 0: it is not. access/quota.c
	 */
	u64 disk_asked;
	unsigned resizes;
	/* limits/limits.c: what was applied, and whether it must be again. */
	u64 limits_weight, limits_given;
	bool limits_changed, limits_pinned;
	bool limits_waits; /* for it to hold less */
};

const char *vm_state_name(enum vm_state state);
bool vm_is_up(const struct vm *vm); /* runs, or is paused */
const char *vm_project(const struct vm *vm);
/* It was to be there until a time that is over; now: seconds since 1970. */
bool vm_expired(const struct vm *vm, s64 now);
int vm_load_all(struct daemon *d, struct error *err) MUST_CHECK;
void vm_free_all(struct daemon *d);
/* By name or id; NULL. */
struct vm *vm_find(struct daemon *d, const char *name);
/* A machine that is in no list yet; spec is taken over. */
struct vm *vm_new(struct daemon *d, json_t *spec);
void vm_free(struct vm *vm);
void vm_insert(struct vm *vm);
void vm_remove(struct vm *vm);  /* its consoles end */
void vm_reorder(struct vm *vm); /* its name is another */
/* As the API shows it; without its definition. */
json_t *vm_json(const struct vm *vm);
json_t *vm_head_json(const struct vm *vm);
/* Another definition, taken over. */
void vm_set_spec(struct vm *vm, json_t *spec);
/* The machine's own folder, made if it is not there. Descriptor, or -errno. */
int vm_folder(const struct vm *vm, struct error *err) MUST_CHECK;
char *vm_folder_path(const struct vm *vm);
/* Of its holder; owned. */
char *vm_socket_path(const struct vm *vm);
void vm_set_state(struct vm *vm, enum vm_state state);
/* Remembers in the registry whether it should run. */
void vm_set_wanted(struct vm *vm, bool wanted);
/* From holder.c: it is running, or paused; it has ended. */
void vm_came_up(struct vm *vm, enum vm_state state);
void vm_ended(struct vm *vm, json_t *end);
void vm_console_grew(struct vm *vm, u64 end);
/* By a task of its own, as soon as it can be. */
void vm_delete_soon(struct vm *vm, const char *caller);
/* After vm_load_all: whom the policy wants running. */
void vm_autostart(struct daemon *d, bool host_booted);

/* ---- definitions: spec.c ---- */

/* A whole definition out of what a client sent: all checked, defaults put in.
 * On failure NULL; err->hint names the place. */
json_t *spec_parse(json_t *sent, struct error *err) MUST_CHECK;
/* RFC 7396: spec with patch applied, parsed. */
json_t *spec_patch(json_t *spec, json_t *patch, struct error *err) MUST_CHECK;
bool spec_name_valid(const char *name);
/* It names files of the host or opens its ports: for administrators. */
bool spec_touches_host(json_t *spec);
/* A key that was not said to be made up, such as a network card's address. */
int spec_fill(json_t *spec, struct error *err) MUST_CHECK;

/* ---- tasks: task.c, operate.c ---- */

enum task_state {
	TASK_QUEUED,
	TASK_RUNNING,
	TASK_SUCCEEDED,
	TASK_FAILED,
	TASK_CANCELLED
};

struct task {
	struct task *next; /* in its queue */
	struct daemon *daemon;
	struct vm *vm; /* borrowed; NULL: a task on images */
	s64 id;
	char *kind;
	enum task_state state;
	json_t *params;
	int progress; /* percent */
	char *words;  /* what it is doing */
	json_t *result, *error;
	char caller[CALLER_MAX];
	char project[PROJECT_SIZE]; /* the machine's when it was asked for */
	char created[TIME_SIZE], started[TIME_SIZE], ended[TIME_SIZE];

	/* operate.c's while it runs. */
	const struct operation *operation;
	int step;
	struct loop_timer timer;
	u64 deadline_ns;
	struct job *job;
	int out;             /* what that prints, if it is wanted; -1 */
	struct error *doubt; /* what it said, which may not be the end of it */
	bool cancelling;
};

const char *task_state_name(enum task_state state);
/* Writes a task of vm to the registry: in the caller's transaction. NULL with
 * words. It runs only after task_enqueue(). */
struct task *task_new(struct vm *vm, const char *kind, json_t *params,
                      const char *caller, struct error *err);
/* The same of a task on images, of a project ("": the host's). */
struct task *task_new_image(struct daemon *d, const char *kind, json_t *params,
                            const char *caller, const char *project,
                            struct error *err);
void task_free(struct task *task);
/* Of images, at the daemon's end. */
void task_free_all(struct daemon *d);
void task_enqueue(struct task *task);
/* Instead of all others, which are cancelled: for kill. */
void task_enqueue_urgent(struct task *task);
/* Starts the first one if none runs. */
void task_run_queue(struct vm *vm);
/* A queue that was left by an earlier daemon. */
int task_load_all(struct daemon *d, struct error *err) MUST_CHECK;
/* Ends a task, running or not; result is taken over. */
void task_succeed(struct task *task, json_t *result);
void task_fail(struct task *task, const char *code, const char *words,
               const char *hint);
void task_fail_error(struct task *task, const struct error *err);
/* The same for what a job said. */
void task_fail_job(struct task *task, const struct error *failed);
void task_cancelled(struct task *task, const char *words);
void task_progress(struct task *task, int percent, const char *words);
/* Its operation is told in so long. */
void task_arm_ms(struct task *task, u64 ms);
/* Its params were changed, and are to be found by the next daemon. */
int task_write_params(struct task *task, struct error *err) MUST_CHECK;
/* It ends soon, if it has not ended by itself. */
void task_cancel(struct task *task);
json_t *task_json(const struct task *task);
/* Of a machine's queue the one whose turn it is; NULL: none. */
struct task *task_next_to_run(const struct vm *vm);
/* Of any age; NULL: there is none. */
json_t *task_find_json(struct daemon *d, s64 id);
struct task *task_find_active(struct daemon *d, s64 id);

/* What a task of a kind does. Every callback may end the task; then it is
 * gone when the callback returns. */
struct operation {
	const char *kind;
	bool repeatable; /* may be begun again after a daemon died in it */
	void (*begin)(struct task *task);
	/* The machine's state changed, or the task's timer fired. */
	void (*changed)(struct task *task);
	/* Undo what is under way, and end in task_cancelled(), now or later. */
	void (*cancel)(struct task *task);
	/* Both optional: it is back in its queue after a restart; it has ended
	 * in one way or another, perhaps without having begun. */
	void (*loaded)(struct task *task);
	void (*ended)(struct task *task);
};
const struct operation *operation_find(const char *kind);
/* What the machine is started from: with what its image gives. NULL. */
json_t *vm_resolve(struct vm *vm, struct error *err);
/* The disks that it has, with paths and formats: of one that is up those that
 * it was started with. A new reference; NULL. */
json_t *vm_disks(struct vm *vm, struct error *err);

/* Fills in what the holder opens, of how->spec, and counts the run. */
int operate_prepare_start(struct vm *vm, struct holder_start *how,
                          struct error *err) MUST_CHECK;
/* The part of a task that starts its machine. */
void operate_start_begin(struct task *task);
void operate_start_changed(struct task *task);

/* Work on a disk of a machine that runs: disk_work.c. */
void disk_work_begin(struct task *task);
void disk_work_changed(struct task *task);
void disk_work_cancel(struct task *task);
/* Ends task->job, and the machine's job on disk task->step that it began. */
void disk_work_cancel_step(struct task *task);
/* Out of a machine's answer to "disks": the job on a disk that is under way,
 * borrowed, or NULL. */
json_t *disk_work_job(int disk, json_t *answer);
/* Whether params are what a task of this kind takes. */
int disk_work_check(const char *kind, json_t *params,
                    struct error *err) MUST_CHECK;
void operate_changed(struct vm *vm);

/* ---- the holder: holder.c ---- */

struct holder_start {
	json_t *machine; /* resolved: what the holder opens */
	json_t *spec;    /* the definition that this is of, and its revision */
	s64 revision;
	json_t *restore; /* goes on from what was saved; NULL: boots */
	bool fork;       /* waits for what it is a copy of */
};
/* Starts one, run vm->run. 0 or -errno with words. */
int holder_start(struct vm *vm, const struct holder_start *how,
                 struct error *err) MUST_CHECK;
/* At the daemon's start: finds one that runs, and reads how a run ended that
 * ended meanwhile. */
void holder_find(struct vm *vm);
/* Lets go; the holder and its machine go on. */
void holder_forget(struct vm *vm);
typedef void holder_answer_fn(void *ctx, bool ok, const char *words,
                              json_t *answer);
/* message is taken over. fn is always called once, NULL aside. */
void holder_request(struct vm *vm, json_t *message, holder_answer_fn *fn,
                    void *ctx);
/* What such an answer says can be done; "" if nothing, or there is none. */
const char *holder_hint(json_t *answer);
/* Nobody waits for answers with that ctx any more. */
void holder_unask(struct vm *vm, void *ctx);

/* ---- how fast disks may be: disk_limits.c ---- */

#define DISK_LIMIT_MAX ((s64)1 << 53) /* what JSON's numbers hold exactly */
extern const char *const disk_limit_keys[]; /* ends with NULL */
/* Copies those that are there. */
void disk_limits_copy(json_t *to, json_t *from);
/* A definition that gives its disk of that number these limits, each as it was
 * where limits has none; as a change of spec. NULL: it has no such disk. */
json_t *disk_limits_patch(json_t *spec, size_t disk, json_t *limits);
/* Whether two definitions have the same disks, but for limits; limits and all.
 */
bool disk_limits_same_disks(json_t *a, json_t *b);
bool disk_limits_same(json_t *a, json_t *b);
/* The limits of vm's definition for a disk, to its machine, which runs. One
 * that has another file there refuses them. */
void disk_limits_tell(struct vm *vm, size_t disk, holder_answer_fn *fn,
                      void *ctx);
/* Those that are others than before. */
void disk_limits_tell_changed(struct vm *vm, json_t *before);

/* ---- work in a process of its own: job.c ---- */

/* A program of ours with arguments, itself first; done is called once, with
 * NULL or with what the program said of its failure, hint and all. */
typedef void job_fn(void *ctx, const struct error *failed);
struct job *job_start(struct loop *loop, const char *const *arguments,
                      job_fn *done, void *ctx, struct error *err);
/* The same; what it prints goes to that descriptor, which is borrowed. */
struct job *job_start_to(struct loop *loop, const char *const *arguments,
                         int out, job_fn *done, void *ctx, struct error *err);
/* What the API calls it: "storage" if no room was left, else "conflict". */
const char *job_code(const struct error *failed);
void job_end(struct job *job);    /* asked to; done is called when it has */
void job_kill(struct job *job);   /* done is called soon */
void job_forget(struct job *job); /* killed, and done is not called */
/* Removes a folder in the background, outliving us if need be. */
void job_remove_folder(const char *path);

/* ---- events: event.c ---- */

/* Written and sent to who listens; data is taken over, may be NULL. It belongs
 * to the machine's project. */
void event_emit(struct daemon *d, const char *type, const struct vm *vm,
                s64 task, json_t *data);
/* Where a task stands, to those who may see it. */
void event_emit_task(const struct task *task, json_t *data);
/* Of no machine; project NULL: the host's. */
void event_emit_in(struct daemon *d, const char *project, const char *type,
                   json_t *data);

/* ---- times and names: clock.c ---- */

s64 time_ns(void);         /* since 1970 */
void time_now(char *text); /* "2026-01-31T10:00:00.123Z" */
/* Of seconds since 1970. */
void time_text(s64 seconds, char *text);
/* That, or without the fraction, or the day alone: seconds since 1970; -1: it
 * is none, or NULL. */
s64 time_parse(const char *text);
int id_new(char *id, struct error *err) MUST_CHECK; /* a random UUID */
bool id_looks_like(const char *text);
