/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine - the life cycle: built, run, held, reset, ended.
 */
#include "machine/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "devices/chips/acpi_pm.h"
#include "devices/virtio/console.h"
#include "guest/freeze.h"
#include "guest/memory.h"
#include "machine/acpi/acpi.h"
#include "machine/console.h"
#include "machine/gdb.h"
#include "machine/generation.h"
#include "machine/internal.h"
#include "machine/state/pages.h"
#include "machine/state/state.h"
#include "machine/steal.h"
#include "net/link.h"
#include "storage/block.h"

#define MEMORY_MIN (32 * MIB)

enum { FLUSH_MS = 5000 };

/* ---- holding and resetting: the loop's thread ---- */

/* So that the guest's TSCs stand still too, and stay in step. */
static void set_tsc_offsets(struct machine *m)
{
	const struct engine_type *type = m->engine_type;

	for (unsigned i = 0; i < m->config.cpus; i++)
		if (type->vcpu_tsc_offset_set)
			type->vcpu_tsc_offset_set(m->cpus[i].vcpu,
			                          m->tsc_offset);
}

static void shift_tsc_offsets(struct machine *m, u64 by)
{
	const struct engine_type *type = m->engine_type;

	m->tsc_offset -= by;
	for (unsigned i = 0; i < m->config.cpus; i++) {
		struct vcpu *v = m->cpus[i].vcpu;

		if (type->vcpu_tsc_offset_set)
			type->vcpu_tsc_offset_set(
			    v, type->vcpu_tsc_offset_get(v) - by);
	}
}

void machine_hold(struct machine *m)
{
	if (m->holds++)
		return;
	cpus_stop(m);
	clock_stop(m->host.clock);
	if (m->engine_type->irqchip)
		m->engine_type->irqchip->clock_stop(m->engine);
	m->stopped_tsc = host_tsc();
	atomic_store(&m->tsc_stands, true);
}

void machine_release(struct machine *m)
{
	if (--m->holds)
		return;
	shift_tsc_offsets(m, host_tsc() - m->stopped_tsc);
	atomic_store(&m->tsc_stands, false);
	clock_start(m->host.clock);
	if (m->engine_type->irqchip)
		m->engine_type->irqchip->clock_start(m->engine);
	pv_refresh(m);
	cpus_go(m);
}

static bool wants_unpack(const struct machine *m)
{
	if (m->config.unpack == UNPACK_AUTO)
		return !m->engine_type->irqchip;
	return m->config.unpack == UNPACK_YES;
}

static struct boot_file boot_file(int fd, const char *path)
{
	return (struct boot_file){ .fd = fd, .path = path };
}

/* Devices, memory and registers as after power-on; all vCPUs are parked. */
static int power_on(struct machine *m, struct error *err)
{
	struct boot_request req = {
		.memory = m->memory,
		.kernel = boot_file(m->config.kernel_fd, m->config.kernel_path),
		.initrd = boot_file(m->config.initrd_fd, m->config.initrd_path),
		.module_count = m->config.module_count,
		.cmdline = m->config.cmdline,
		.map = m->map,
		.map_count = m->map_count,
		.low_ram_end = m->low_ram_end,
		.rsdp = ACPI_BASE,
		.unpack = wants_unpack(m),
	};
	struct cpu_state bsp;
	int rc;

	for (unsigned i = 0; i < m->config.module_count; i++)
		req.modules[i] = boot_file(m->config.module_fds[i], "module");
	board_reset(m);
	cpu_state_reset(&bsp, true, m->cpuid_1_eax);
	rc = boot_load(&req, &bsp, err);
	if (rc < 0)
		return rc;
	rc = cpus_reset(m, &bsp, err);
	if (rc < 0)
		return rc;
	/* The guest's TSC starts at 0 when it next runs. */
	m->stopped_tsc = host_tsc();
	m->tsc_offset = -m->stopped_tsc;
	set_tsc_offsets(m);
	return 0;
}

/* As power_on(), but what the guest finds is what was saved. */
static int restore(struct machine *m, struct error *err)
{
	struct cpu_state bsp;
	int rc;

	board_reset(m);
	cpu_state_reset(&bsp, true, m->cpuid_1_eax);
	rc = cpus_reset(m, &bsp, err);
	return rc < 0 ? rc : restore_machine(m, err);
}

static void do_reset(struct machine *m)
{
	struct error err = { 0 };

	machine_hold(m);
	m->resets++;
	if (power_on(m, &err) < 0)
		machine_end(m, END_FAILURE, "reset-failed", -1,
		            "the machine could not be reset: %s", err.text);
	machine_release(m);
}

/* ---- ends ---- */

static void add_registers(struct machine *m)
{
	struct machine_outcome *o = &m->outcome;
	size_t used = strlen(o->words);
	struct cpu_state state;

	if (!m->show_cpu)
		return;
	m->engine_type->vcpu_get(m->cpus[m->cpu_words].vcpu, &state);
	used += (size_t)snprintf(o->words + used, sizeof(o->words) - used,
	                         "\nvCPU %u stood at:\n", m->cpu_words);
	if (used < sizeof(o->words))
		cpu_state_print(&state, o->words + used,
		                sizeof(o->words) - used);
}

static void do_end(struct machine *m)
{
	machine_hold(m);
	m->end_ns = loop_now_ns();
	add_registers(m);
	for (unsigned i = 0; i < m->config.serial_count; i++)
		console_flush(m->consoles[i], FLUSH_MS);
	gdb_ended(m->gdb);
	loop_quit(m->loop, m->outcome.code);
}

static void handle_requests(void *ctx)
{
	struct machine *m = ctx;
	u32 requests = atomic_exchange(&m->requests, 0);

	if (requests & REQUEST_END)
		do_end(m);
	else if (requests & REQUEST_RESET && !m->ended)
		do_reset(m);
}

/* vCPUs stop now; what is asked is done on the loop's thread. */
static void request(struct machine *m, u32 what)
{
	atomic_fetch_or(&m->requests, what);
	for (unsigned i = 0; i < m->config.cpus; i++)
		cpu_event(&m->cpus[i], CPU_EVENT_STOP);
	loop_post(m->loop, handle_requests, m);
}

void machine_end(struct machine *m, int code, const char *cause, int show_cpu,
                 const char *fmt, ...)
{
	struct machine_outcome *o = &m->outcome;
	va_list ap;
	bool first;

	pthread_mutex_lock(&m->lock);
	first = !m->ended;
	if (first) {
		m->ended = true;
		o->code = code;
		snprintf(o->cause, sizeof(o->cause), "%s", cause);
		va_start(ap, fmt);
		vsnprintf(o->words, sizeof(o->words), fmt, ap);
		va_end(ap);
		m->show_cpu = show_cpu >= 0;
		m->cpu_words = show_cpu >= 0 ? (unsigned)show_cpu : 0;
	}
	pthread_mutex_unlock(&m->lock);
	if (first)
		request(m, REQUEST_END);
}

static void timed_out(void *ctx)
{
	struct machine *m = ctx;

	machine_end(m, END_TIMEOUT, "timeout", 0,
	            "the machine still ran after %" PRIu64 " s",
	            m->config.timeout_ns / NSEC_PER_SEC);
}

static void host_reset(void *ctx, const char *why)
{
	machine_reset(ctx, why);
}

static void host_power_off(void *ctx, const char *why)
{
	machine_end(ctx, END_POWER_OFF, "power-off", -1, "%s", why);
}

static void host_guest_exit(void *ctx, int code)
{
	machine_end(ctx, code, "guest-exit", -1,
	            "the guest ended the machine with code %d", code);
}

/* ---- create and destroy ---- */

static u64 host_memory(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

	return pages > 0 && size > 0 ? (u64)pages * (u64)size : UINT64_MAX;
}

static int check_memory(u64 bytes, struct error *err)
{
	if (bytes < MEMORY_MIN) {
		error_set(err, -EINVAL, "%" PRIu64 " MiB is too little memory",
		          bytes / MIB);
		return error_hint(err, "a machine needs at least 32 MiB");
	}
	if (!IS_ALIGNED(bytes, (u64)PAGE_SIZE))
		return error_set(err, -EINVAL,
		                 "memory of %" PRIu64
		                 " bytes is not a whole number of pages",
		                 bytes);
	if (bytes > host_memory()) {
		error_set(err, -ENOMEM,
		          "%" PRIu64
		          " MiB is more memory than the host has, %" PRIu64
		          " MiB",
		          bytes / MIB, host_memory() / MIB);
		return error_hint(err, "give the machine less memory");
	}
	return 0;
}

static int check_config(const struct machine_config *c, struct error *err)
{
	if (c->cpus < 1 || c->cpus > MACHINE_CPUS_MAX)
		return error_set(err, -EINVAL,
		                 "a machine has 1 to %d vCPUs, "
		                 "not %u",
		                 MACHINE_CPUS_MAX, c->cpus);
	if (c->cpus_present > c->cpus)
		return error_set(err, -EINVAL,
		                 "a machine of at most %u vCPUs can't begin "
		                 "with %u",
		                 c->cpus, c->cpus_present);
	if (check_memory(c->memory_bytes, err) < 0)
		return -EINVAL;
	if (c->kernel_fd < 0) {
		error_set(err, -EINVAL, "there is no kernel to boot");
		return error_hint(err, "give one with --kernel, or an image");
	}
	if (c->disk_count > MACHINE_DISKS_MAX ||
	    c->nic_count > MACHINE_NICS_MAX ||
	    c->serial_count > MACHINE_SERIALS_MAX ||
	    c->module_count > BOOT_MODULES_MAX)
		return error_set(err, -EINVAL,
		                 "too many disks, networks, "
		                 "serial ports or modules");
	return 0;
}

static char *copy_string(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

/* Descriptors that a reset reads again are ours too. */
static int keep_fd(int *fd, struct error *err)
{
	if (*fd < 0)
		return 0;
	*fd = dup(*fd);
	if (*fd < 0)
		return error_set(err, -errno, "cannot keep a file open: %s",
		                 strerror(errno));
	return 0;
}

static int keep_config(struct machine *m, struct error *err)
{
	struct machine_config *c = &m->config;
	int rc;

	c->name = copy_string(c->name);
	c->engine = copy_string(c->engine);
	c->engine_options = copy_string(c->engine_options);
	c->kernel_path = xstrdup(c->kernel_path ? c->kernel_path : "kernel");
	c->initrd_path = xstrdup(c->initrd_path ? c->initrd_path : "initrd");
	c->cmdline = copy_string(c->cmdline);
	c->origin = copy_string(c->origin);
	for (unsigned i = 0; i < c->disk_count; i++) {
		c->disks[i].path = copy_string(c->disks[i].path);
		c->disks[i].format = copy_string(c->disks[i].format);
		c->disks[i].serial = copy_string(c->disks[i].serial);
		for (unsigned k = 0; k < c->disks[i].chain_count; k++) {
			struct machine_disk_file *f = &c->disks[i].chain[k];

			f->path = copy_string(f->path);
			f->format = copy_string(f->format);
		}
	}
	for (unsigned i = 0; i < c->nic_count; i++)
		c->nics[i].type = copy_string(c->nics[i].type);
	rc = keep_fd(&c->kernel_fd, err);
	if (keep_fd(&c->initrd_fd, err) < 0)
		rc = -EMFILE;
	for (unsigned i = 0; i < c->module_count; i++)
		if (keep_fd(&c->module_fds[i], err) < 0)
			rc = -EMFILE;
	return rc;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void free_const(const char *s)
{
	free((void *)(uintptr_t)s);
}

static void drop_config(struct machine_config *c)
{
	free_const(c->name);
	free_const(c->engine);
	free_const(c->engine_options);
	free_const(c->kernel_path);
	free_const(c->initrd_path);
	free_const(c->cmdline);
	free_const(c->origin);
	for (unsigned i = 0; i < c->disk_count; i++) {
		free_const(c->disks[i].path);
		free_const(c->disks[i].format);
		free_const(c->disks[i].serial);
		close_fd(c->disks[i].fd);
		for (unsigned k = 0; k < c->disks[i].chain_count; k++) {
			free_const(c->disks[i].chain[k].path);
			free_const(c->disks[i].chain[k].format);
			close_fd(c->disks[i].chain[k].fd);
		}
	}
	for (unsigned i = 0; i < c->nic_count; i++) {
		free_const(c->nics[i].type);
		close_fd(c->nics[i].fd);
	}
	for (unsigned i = 0; i < c->restore_layer_count; i++)
		close_fd(c->restore_layers[i]);
	close_fd(c->kernel_fd);
	close_fd(c->initrd_fd);
	for (unsigned i = 0; i < c->module_count; i++)
		close_fd(c->module_fds[i]);
	close_fd(c->gdb_fd);
	if (c->has_agent)
		close_fd(c->agent_fd);
}

static int build(struct machine *m, struct error *err)
{
	int rc;

	m->engine_type = choose_engine(m->config.engine, err);
	if (!m->engine_type)
		return err ? err->code : -ENODEV;
	rc = m->config.restore ? restore_begin(m, err) : 0;
	if (rc == 0)
		rc = board_create(m, err);
	/* Before anything is written there; what is taken over lies in files
	 * of its own. */
	if (rc == 0 && m->config.share_memory && !m->config.restore)
		rc = memory_merge_equal(m->memory, err);
	if (rc == 0)
		rc = cpus_create(m, err);
	if (rc == 0)
		rc = m->config.restore ? restore(m, err) : power_on(m, err);
	restore_fini(m);
	if (rc == 0 && m->config.share_memory && m->config.restore)
		rc = memory_merge_equal(m->memory, err);
	if (rc == 0 && m->config.gdb_fd >= 0) {
		m->gdb = gdb_create(m, m->config.gdb_fd);
		m->config.gdb_fd = -1;
	}
	return rc;
}

int machine_create(struct machine **out, const struct machine_config *config,
                   struct loop *loop, struct error *err)
{
	struct error words = { 0 };
	struct machine *m;
	int rc = check_config(config, err);

	if (rc < 0)
		return rc;
	m = xalloc(sizeof(*m));
	m->config = *config;
	if (m->config.cpus_present == 0)
		m->config.cpus_present = m->config.cpus;
	m->present = m->config.cpus_present;
	m->loop = loop;
	m->start_ns = loop_now_ns();
	m->holds = 1;
	m->tsc_stands = true;
	m->agent_out = -1;
	generation_init(m);
	/* The sandbox will not let us open it later. */
	m->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	m->merged_fd = -1;
	if (config->share_memory)
		m->merged_fd =
		    open("/proc/self/ksm_merging_pages", O_RDONLY | O_CLOEXEC);
	m->host.ctx = m;
	m->host.reset = host_reset;
	m->host.power_off = host_power_off;
	m->host.guest_exit = host_guest_exit;
	pthread_mutex_init(&m->lock, NULL);
	loop_timer_init(&m->timeout, loop, timed_out, m);
	steal_init(m);
	settle_init(m);
	same_init(m);
	rc = keep_config(m, &words);
	if (rc == 0)
		rc = build(m, &words);
	if (rc < 0) {
		machine_destroy(m);
		if (err)
			*err = words;
		return rc;
	}
	*out = m;
	return 0;
}

void machine_destroy(struct machine *m)
{
	if (!m)
		return;
	cpus_quit(m);
	loop_timer_fini(&m->timeout);
	loop_timer_fini(&m->steal);
	settle_fini(m);
	same_fini(m);
	gdb_destroy(m->gdb);
	board_destroy_devices(m);
	cpus_destroy(m);
	for (unsigned i = 0; i < MACHINE_DISKS_MAX; i++)
		block_close(m->blocks[i]);
	for (unsigned i = 0; i < MACHINE_NICS_MAX; i++)
		link_close(m->links[i]);
	for (unsigned i = 0; i < MACHINE_SERIALS_MAX; i++)
		console_destroy(m->consoles[i]);
	console_destroy(m->agent);
	close_fd(m->agent_out);
	pages_source_destroy(m->source);
	board_destroy(m);
	drop_config(&m->config);
	close_fd(m->statm_fd);
	close_fd(m->merged_fd);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* ---- the front door ---- */

/* Nobody wants to say it in other words. */
static void lose(void *ctx, const char *words)
{
	(void)ctx;
	log_error("machine", "%s", words);
	_exit(END_MEMORY_LOST);
}

void machine_run(struct machine *m, struct machine_outcome *outcome)
{
	struct error err = { 0 };

	m->run_ns = loop_now_ns();
	if (m->source)
		pages_source_tell(m->source, m->lost ? m->lost : lose,
		                  m->lost_ctx);
	if (cpus_start_threads(m, &err) < 0)
		machine_end(m, END_FAILURE, "failure", -1, "%s", err.text);
	if (m->config.timeout_ns)
		loop_timer_arm(&m->timeout, m->run_ns + m->config.timeout_ns);
	if (!m->ended)
		machine_release(m);
	if (m->source)
		pages_source_run(m->source);
	same_begin(m);
	loop_run(m->loop);
	moment_finish(m);
	cpus_quit(m);
	board_write_back(m);
	*outcome = m->outcome;
}

void machine_when_lost(struct machine *m, machine_lost_fn *fn, void *ctx)
{
	m->lost = fn;
	m->lost_ctx = ctx;
}

bool machine_owns(const struct machine *m, const void *p)
{
	for (size_t i = 0; i < memory_slot_count(m->memory); i++) {
		const struct memory_slot *slot = memory_slot_at(m->memory, i);

		if ((uintptr_t)p - (uintptr_t)slot->host < slot->size)
			return true;
	}
	return false;
}

int machine_mapped_file(const struct machine *m)
{
	/* A copy's is nobody's but the first one's, which is frozen. */
	return m->config.restore_layer_count ? -1 : memory_adopted(m->memory);
}

const char *machine_engine(const struct machine *m)
{
	return m->engine_type->name;
}

void machine_power_button(struct machine *m)
{
	acpi_pm_power_button(m->pm);
}

void machine_reset(struct machine *m, const char *why)
{
	log_debug("machine", "reset: %s", why);
	request(m, REQUEST_RESET);
}

void machine_quit(struct machine *m, int code, const char *cause,
                  const char *words)
{
	machine_end(m, code, cause, -1, "%s", words);
}

static void do_pause(void *ctx)
{
	struct machine *m = ctx;

	if (!m->paused)
		machine_hold(m);
	m->paused = true;
}

static void do_resume(void *ctx)
{
	struct machine *m = ctx;

	if (m->paused && !m->ended)
		machine_release(m);
	m->paused = false;
}

void machine_freeze(struct machine *m)
{
	machine_hold(m);
}

void machine_thaw(struct machine *m)
{
	machine_release(m);
}

void machine_pause(struct machine *m)
{
	loop_post(m->loop, do_pause, m);
}

void machine_resume(struct machine *m)
{
	loop_post(m->loop, do_resume, m);
}

void machine_console_resize(struct machine *m, u16 columns, u16 rows)
{
	if (m->virtio_console)
		virtio_console_resize(m->virtio_console, columns, rows);
}
