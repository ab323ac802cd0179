/* SPDX-License-Identifier: Apache-2.0 */
/*
 * still - a guest's file systems stand still while a copy of its disk begins,
 * so that what is copied is as if they had been unmounted. They go on as soon
 * as the machine has the copy under way, or who was to begin it has ended, or
 * it took too long: programs in the guest wait for as long as this.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/loop.h"
#include "daemon/daemon.h"
#include "daemon/guest/guest.h"

enum { FREEZE_S = 20, THAW_S = 20, MOST_S = 10, LOOK_MS = 100 };

struct still {
	struct vm *vm;
	s64 task; /* whose work it is for */
	int disk;
	still_fn *begin;
	struct loop_timer timer;
	u64 until; /* 0: it was asked, and has not answered */
};

static void thawed(void *ctx, json_t *answer, const struct error *err)
{
	const struct vm *vm = ctx;

	/* Asked again when a daemon first hears of the guest. */
	if (!answer)
		log_warn("daemon", "%s: its file systems may stand still: %s",
		         vm->name, err->text);
}

void guest_still_forget(struct vm *vm)
{
	struct still *s = vm->still;

	if (!s)
		return;
	vm->still = NULL;
	loop_timer_fini(&s->timer);
	free(s);
}

void guest_go_on(struct vm *vm)
{
	bool frozen = vm->still && vm->still->until;

	if (!frozen)
		return;
	guest_still_forget(vm);
	guest_ask(vm, "guest-fsfreeze-thaw", NULL, AGENT_ANSWER_USUAL, THAW_S,
	          thawed, vm);
}

/* Whose work it is; NULL: it has ended. */
static struct task *task_of(const struct still *s)
{
	struct task *t = s->vm->queue;

	while (t && (t->id != s->task || t->state != TASK_RUNNING))
		t = t->next;
	return t;
}

static void look(struct still *s)
{
	loop_timer_arm(&s->timer, loop_now_ns() + LOOK_MS * NSEC_PER_MSEC);
}

static void looked(void *ctx, bool ok, const char *words, json_t *answer)
{
	struct vm *vm = ctx;

	(void)words;
	if (!vm->still || !vm->still->until)
		return;
	if (ok && disk_work_job(vm->still->disk, answer))
		guest_go_on(vm);
	else
		look(vm->still);
}

static void due(void *ctx)
{
	struct still *s = ctx;
	struct vm *vm = s->vm;
	const struct task *t = task_of(s);

	if (!t || !t->job) {
		guest_go_on(vm);
	} else if (loop_now_ns() > s->until) {
		log_warn("daemon",
		         "%s: after %d s its file systems go on, although the "
		         "copy has not begun",
		         vm->name, MOST_S);
		guest_go_on(vm);
	} else {
		holder_request(vm, json_pack("{s:s}", "op", "disks"), looked,
		               vm);
	}
}

static void frozen(void *ctx, json_t *answer, const struct error *err)
{
	struct vm *vm = ctx;
	struct still *s = vm->still;
	still_fn *begin;
	struct task *t;

	if (!s)
		return;
	begin = s->begin;
	t = task_of(s);
	if (answer) {
		s->until = loop_now_ns() + MOST_S * NSEC_PER_SEC;
		look(s);
	} else {
		guest_still_forget(vm);
	}
	if (t)
		begin(t, answer ? NULL : err);
	else
		guest_go_on(vm);
}

void guest_hold_still(struct task *t, int disk, still_fn *begin)
{
	struct vm *vm = t->vm;
	struct error err = { 0 };
	struct still *s;

	if (vm->still) {
		error_set(&err, -EBUSY,
		          "the guest's file systems stand still already");
		begin(t, &err);
		return;
	}
	vm->still = s = xalloc(sizeof(*s));
	s->vm = vm;
	s->task = t->id;
	s->disk = disk;
	s->begin = begin;
	loop_timer_init(&s->timer, vm->daemon->loop, due, s);
	guest_ask(vm, "guest-fsfreeze-freeze", NULL, AGENT_ANSWER_USUAL,
	          FREEZE_S, frozen, vm);
}
