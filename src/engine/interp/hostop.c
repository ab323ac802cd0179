/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostop.c - the pool of stubs, running one, and the faults inside one.
 *
 * A stub runs the guest's instruction with the guest's MXCSR and x87 control
 * word. An exception that these leave unmasked becomes SIGFPE; the handler
 * sends the thread to the stub's fault exit with the outcome in RAX. The
 * kernel gives back the MXCSR of the moment of the fault on the way, sticky
 * flags and all, and the fault exit stores it.
 *
 * Which stub a thread is in is kept in a thread-local variable, so the
 * handler looks at nothing that a guest could forge.
 */
#include "engine/interp/hostop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "engine/interp/hostop_internal.h"
#include "guest/cpu.h"

enum { STUB_ALIGN = 16, BUCKETS = 4096 };

/*
 * Memory is reserved at once and comes as it is used. Guests run the same
 * instruction with the same registers in many places, and addresses are no
 * part of a stub: one is made, found again by its code.
 */
struct hostop_pool {
	pthread_mutex_t lock;
	u8 *write; /* the same pages: written here, */
	u8 *exec;  /* run here */
	size_t size, used;
	struct hostop *bucket[BUCKETS]; /* by a hash of the code */
};

static _Thread_local const struct hostop *volatile running;

/* Written once, by hostop_install_signals(); a handler can have no other. */
static struct sigaction previous_fpe, previous_ill;

int hostop_pool_create(struct hostop_pool **out, size_t bytes,
                       struct error *err)
{
	struct hostop_pool *pool = xalloc(sizeof(*pool));
	int fd, code;

	pthread_mutex_init(&pool->lock, NULL);
	pool->size = ALIGN_UP(bytes, (size_t)4096);
	fd = memfd_create("hostop", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)pool->size) < 0)
		goto fail;
	pool->write =
	    mmap(NULL, pool->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (pool->write == MAP_FAILED) {
		pool->write = NULL;
		goto fail;
	}
	pool->exec =
	    mmap(NULL, pool->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (pool->exec == MAP_FAILED) {
		pool->exec = NULL;
		goto fail;
	}
	close(fd);
	*out = pool;
	return 0;
fail:
	code = -errno;
	if (fd >= 0)
		close(fd);
	hostop_pool_destroy(pool);
	return error_set(err, code, "cannot map %zu bytes for code: %s", bytes,
	                 strerror(-code));
}

static void free_ops(struct hostop_pool *pool)
{
	struct hostop *op, *next;
	size_t i;

	for (i = 0; i < BUCKETS; i++) {
		for (op = pool->bucket[i]; op; op = next) {
			next = op->next;
			free(op);
		}
		pool->bucket[i] = NULL;
	}
}

void hostop_pool_destroy(struct hostop_pool *pool)
{
	if (!pool)
		return;
	if (pool->write)
		munmap(pool->write, pool->size);
	if (pool->exec)
		munmap(pool->exec, pool->size);
	free_ops(pool);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

void hostop_pool_flush(struct hostop_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	free_ops(pool);
	pool->used = 0;
	pthread_mutex_unlock(&pool->lock);
}

static size_t hash_code(const struct hostop_code *code)
{
	u64 h = code->used;
	size_t i;

	for (i = 0; i < code->used; i++)
		h = (h ^ code->bytes[i]) * 0x100000001b3; /* FNV-1a */
	return (h ^ h >> 32) % BUCKETS;
}

/* With the lock held: one that was made before, or NULL. */
static struct hostop *find(struct hostop_pool *pool,
                           const struct hostop_code *code, size_t hash,
                           const struct hostop_info *info, bool waits)
{
	struct hostop *op;

	for (op = pool->bucket[hash]; op; op = op->next) {
		const void *at = (const void *)(uintptr_t)op->entry;

		if (op->size == code->used && op->waits == waits &&
		    !memcmp(at, code->bytes, code->used) &&
		    !memcmp(&op->info, info, sizeof(*info)))
			return op;
	}
	return NULL;
}

/* With the lock held. NULL: no room. */
static struct hostop *place(struct hostop_pool *pool,
                            const struct hostop_code *code, size_t hash)
{
	size_t at = ALIGN_UP(pool->used, (size_t)STUB_ALIGN);
	struct hostop *op;

	if (code->used > pool->size || at > pool->size - code->used)
		return NULL;
	op = xalloc(sizeof(*op));
	memcpy(pool->write + at, code->bytes, code->used);
	pool->used = at + code->used;
	op->entry = (hostop_entry *)(void *)(pool->exec + at);
	op->insn = (u64)(uintptr_t)pool->exec + at + code->insn;
	op->fault_exit = (u64)(uintptr_t)pool->exec + at + code->fault_exit;
	op->size = (u16)code->used;
	op->next = pool->bucket[hash];
	pool->bucket[hash] = op;
	return op;
}

const struct hostop *hostop_build(struct hostop_pool *pool,
                                  const ZydisDecodedInstruction *insn,
                                  const ZydisDecodedOperand *operands,
                                  const u8 *bytes, bool *full)
{
	struct hostop_code code;
	struct hostop_info info;
	struct hostop *op;
	size_t hash;
	bool waits;

	(void)bytes; /* the decoder's fields say all that the copy needs */
	*full = false;
	if (!hostop_translate(insn, operands, &code, &info, &waits))
		return NULL;
	hash = hash_code(&code);
	pthread_mutex_lock(&pool->lock);
	op = find(pool, &code, hash, &info, waits);
	if (!op) {
		op = place(pool, &code, hash);
		if (op) {
			op->info = info;
			op->waits = waits;
		}
	}
	pthread_mutex_unlock(&pool->lock);
	*full = !op;
	return op;
}

const struct hostop_info *hostop_info(const struct hostop *op)
{
	return &op->info;
}

/* Is an unmasked exception waiting in this x87 state? */
static bool x87_pending(const u8 *xsave)
{
	u16 fcw, fsw;

	memcpy(&fcw, xsave, 2);
	memcpy(&fsw, xsave + 2, 2);
	return (fsw & ~fcw & 0x3f) != 0;
}

enum hostop_result hostop_run(const struct hostop *op,
                              const struct hostop_regs *regs, void *buf)
{
	u64 result;

	if (op->waits && x87_pending(regs->xsave))
		return HOSTOP_X87_FAULT;
	running = op;
	result = op->entry(regs, buf);
	running = NULL;
	return (enum hostop_result)result;
}

static void pass_on(const struct sigaction *previous, int sig, siginfo_t *info,
                    void *context)
{
	if (previous->sa_flags & SA_SIGINFO) {
		previous->sa_sigaction(sig, info, context);
	} else if (previous->sa_handler == SIG_DFL ||
	           previous->sa_handler == SIG_IGN) {
		/* A fault can't be ignored: running on, it comes again. */
		signal(sig, SIG_DFL);
	} else {
		previous->sa_handler(sig);
	}
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	const struct hostop *op = running;
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;
	enum hostop_result result = HOSTOP_SIMD_FAULT;

	if (!op || (u64)regs[REG_RIP] != op->insn) {
		pass_on(sig == SIGFPE ? &previous_fpe : &previous_ill, sig,
		        info, context);
		return;
	}
	/* Linux uses trap numbers as the vectors are: 16 is #MF, 19 #XM. */
	if (sig == SIGILL)
		result = HOSTOP_UD;
	else if (regs[REG_TRAPNO] == VEC_MF)
		result = HOSTOP_X87_FAULT;
	regs[REG_RAX] = (greg_t)result;
	regs[REG_RIP] = (greg_t)op->fault_exit;
}

int hostop_install_signals(struct error *err)
{
	struct sigaction sa = { .sa_sigaction = on_fault,
		                .sa_flags =
		                    SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	struct sigaction now;

	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGFPE, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) &&
	    now.sa_sigaction == on_fault)
		return 0;
	if (sigaction(SIGFPE, &sa, &previous_fpe) < 0 ||
	    sigaction(SIGILL, &sa, &previous_ill) < 0)
		return error_set(err, -errno, "cannot handle SIGFPE: %s",
		                 strerror(errno));
	return 0;
}
