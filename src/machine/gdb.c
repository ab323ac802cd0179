/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gdb - the debugger's commands, in all-stop mode.
 *
 * While stopped the stub holds the machine. Continuing sets each vCPU's
 * breakpoints and step flag; a vCPU without an action of its own stays
 * frozen. What a debugger sends is checked, though it is the person's own.
 */
#include "machine/gdb.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "guest/memory.h"
#include "machine/gdb_link.h"
#include "machine/gdb_regs.h"
#include "machine/internal.h"

enum { SIG_INT = 2, SIG_TRAP = 5, BREAKPOINTS_MAX = 128 };

struct gdb {
	struct machine *m;
	struct gdb_link *link;
	bool stopped;     /* this stub holds the machine */
	unsigned general; /* the vCPU that g, m and the like are about */
	char *xml;
	struct vcpu_breakpoint points[BREAKPOINTS_MAX];
	size_t point_count;

	pthread_mutex_t lock; /* the rest: vCPUs report here */
	bool pending;
	unsigned stop_cpu;
	struct vcpu_exit stop;
};

static void send_text(struct gdb *g, const char *text)
{
	gdb_link_send(g->link, text, strlen(text));
}

/* ---- hex ---- */

static char *put_hex(char *to, const u8 *data, size_t size)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < size; i++) {
		*to++ = digits[data[i] >> 4];
		*to++ = digits[data[i] & 15];
	}
	*to = 0;
	return to;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Exactly size bytes. */
static bool get_hex(const char *from, u8 *data, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(from[2 * i]);
		int low = high < 0 ? -1 : hex_digit(from[2 * i + 1]);

		if (low < 0)
			return false;
		data[i] = (u8)(high << 4 | low);
	}
	return true;
}

/* "addr,length" and what stands after it. */
static bool get_range(const char *s, u64 *addr, u64 *length, const char **rest)
{
	char *end;

	*addr = strtoull(s, &end, 16);
	if (end == s || *end != ',')
		return false;
	s = end + 1;
	*length = strtoull(s, &end, 16);
	*rest = end;
	return end != s;
}

/* A thread number: "1", "p1.1"; -1 and 0 are all and any. */
static long get_thread(const char *s)
{
	const char *dot = strchr(s, '.');

	if (*s == 'p' && dot)
		s = dot + 1;
	return strncmp(s, "-1", 2) == 0 ? -1 : (long)strtoul(s, NULL, 16);
}

static bool valid_thread(const struct gdb *g, long thread)
{
	return thread >= 1 && (unsigned long)thread <= g->m->present;
}

/* ---- stopping and going ---- */

static void report_stop(struct gdb *g)
{
	const struct vcpu_exit *e = &g->stop;
	char text[96], watch[48] = "";

	if (e->reason == EXIT_DEBUG && !e->debug.step)
		for (size_t i = 0; i < g->point_count; i++) {
			const struct vcpu_breakpoint *p = &g->points[i];

			if (p->kind != BREAK_EXEC &&
			    e->debug.address >= p->address &&
			    e->debug.address - p->address < p->size)
				snprintf(
				    watch, sizeof(watch), "%s:%" PRIx64 ";",
				    p->kind == BREAK_WRITE ? "watch" : "awatch",
				    p->address);
		}
	snprintf(text, sizeof(text), "T%02xthread:%x;%s",
	         e->reason == EXIT_DEBUG ? SIG_TRAP : SIG_INT, g->stop_cpu + 1,
	         watch);
	send_text(g, text);
}

static void stop_now(struct gdb *g)
{
	if (!g->stopped)
		machine_hold(g->m);
	g->stopped = true;
}

/* Posted by gdb_stopped(). */
static void handle_stop(void *ctx)
{
	struct gdb *g = ctx;
	bool report;

	pthread_mutex_lock(&g->lock);
	report = g->pending && !g->stopped;
	g->pending = false;
	pthread_mutex_unlock(&g->lock);
	if (!report || !gdb_link_up(g->link)) {
		/* The debugger has gone, or has stopped us otherwise. */
		if (!g->m->holds)
			cpus_go(g->m);
		return;
	}
	stop_now(g);
	g->general = g->stop_cpu;
	report_stop(g);
}

void gdb_stopped(struct gdb *g, struct machine_cpu *cpu,
                 const struct vcpu_exit *exit)
{
	bool first;

	if (!g)
		return;
	pthread_mutex_lock(&g->lock);
	first = !g->pending;
	if (first) {
		g->pending = true;
		g->stop = *exit;
		g->stop_cpu = cpu->index;
	}
	pthread_mutex_unlock(&g->lock);
	for (unsigned i = 0; i < g->m->config.cpus; i++)
		cpu_event(&g->m->cpus[i], CPU_EVENT_STOP);
	if (first)
		loop_post(g->m->loop, handle_stop, g);
}

enum action { STAY, GO, STEP };

static void resume(struct gdb *g, const enum action *actions)
{
	struct machine *m = g->m;

	for (unsigned i = 0; i < m->config.cpus; i++) {
		struct machine_cpu *cpu = &m->cpus[i];

		cpu->frozen = actions[i] == STAY;
		m->engine_type->vcpu_debug(cpu->vcpu, g->points, g->point_count,
		                           actions[i] == STEP);
	}
	g->stopped = false;
	machine_release(m);
}

static void resume_all(struct gdb *g)
{
	enum action actions[MACHINE_CPUS_MAX];

	for (unsigned i = 0; i < MACHINE_CPUS_MAX; i++)
		actions[i] = GO;
	resume(g, actions);
}

static void let_go(struct gdb *g)
{
	g->point_count = 0;
	if (g->stopped)
		resume_all(g);
}

/* ---- commands ---- */

static void cmd_registers(struct gdb *g)
{
	char *text = xalloc(2 * GDB_PACKET_MAX);
	char *to = text;
	struct cpu_state state;
	u8 value[GDB_REG_BYTES_MAX];

	g->m->engine_type->vcpu_get(g->m->cpus[g->general].vcpu, &state);
	for (unsigned i = 0; i < gdb_reg_count(); i++)
		to = put_hex(to, value, gdb_reg_get(&state, i, value));
	send_text(g, text);
	free(text);
}

static bool store_state(struct gdb *g, const struct cpu_state *state)
{
	return g->m->engine_type->vcpu_set(g->m->cpus[g->general].vcpu, state,
	                                   NULL) == 0;
}

static void cmd_set_registers(struct gdb *g, const char *hex)
{
	struct cpu_state state;
	u8 value[GDB_REG_BYTES_MAX];
	size_t left = strlen(hex);

	g->m->engine_type->vcpu_get(g->m->cpus[g->general].vcpu, &state);
	for (unsigned i = 0; i < gdb_reg_count(); i++) {
		unsigned size = gdb_reg_size(i);

		if (left < 2 * size || !get_hex(hex, value, size))
			break;
		gdb_reg_set(&state, i, value);
		hex += 2 * size;
		left -= 2 * size;
	}
	send_text(g, store_state(g, &state) ? "OK" : "E16");
}

static void cmd_register(struct gdb *g, const char *args)
{
	unsigned n = (unsigned)strtoul(args, NULL, 16);
	char text[2 * GDB_REG_BYTES_MAX + 1];
	struct cpu_state state;
	u8 value[GDB_REG_BYTES_MAX];
	unsigned size;

	g->m->engine_type->vcpu_get(g->m->cpus[g->general].vcpu, &state);
	size = gdb_reg_get(&state, n, value);
	put_hex(text, value, size);
	send_text(g, size ? text : "E0e");
}

static void cmd_set_register(struct gdb *g, const char *args)
{
	char *end;
	unsigned n = (unsigned)strtoul(args, &end, 16);
	unsigned size = gdb_reg_size(n);
	struct cpu_state state;
	u8 value[GDB_REG_BYTES_MAX];

	if (*end != '=' || !size || strlen(end + 1) < 2 * size ||
	    !get_hex(end + 1, value, size)) {
		send_text(g, "E0e");
		return;
	}
	g->m->engine_type->vcpu_get(g->m->cpus[g->general].vcpu, &state);
	gdb_reg_set(&state, n, value);
	send_text(g, store_state(g, &state) ? "OK" : "E16");
}

/* Page by page through the vCPU's own paging; registers are not touched. */
static bool access_memory(struct gdb *g, u64 addr, u8 *data, u64 size,
                          bool write)
{
	struct machine *m = g->m;

	while (size) {
		u64 part = MIN(size, PAGE_SIZE - (addr & ~PAGE_MASK));
		gpa_t gpa;

		if (!m->engine_type->vcpu_translate(m->cpus[g->general].vcpu,
		                                    addr, &gpa))
			return false;
		if (write ? !memory_write(m->memory, gpa, data, part)
		          : !memory_read(m->memory, gpa, data, part))
			return false;
		addr += part;
		data += part;
		size -= part;
	}
	return true;
}

static void cmd_read_memory(struct gdb *g, const char *args)
{
	u8 data[GDB_PACKET_MAX / 2 - 16];
	char text[GDB_PACKET_MAX];
	const char *rest;
	u64 addr, size;

	if (!get_range(args, &addr, &size, &rest) || size > sizeof(data) ||
	    !access_memory(g, addr, data, size, false)) {
		send_text(g, "E0e");
		return;
	}
	put_hex(text, data, size);
	send_text(g, text);
}

static void cmd_write_memory(struct gdb *g, const char *args)
{
	u8 data[GDB_PACKET_MAX / 2];
	const char *rest;
	u64 addr, size;

	if (!get_range(args, &addr, &size, &rest) || *rest != ':' ||
	    size > sizeof(data) || strlen(rest + 1) < 2 * size ||
	    !get_hex(rest + 1, data, size) ||
	    !access_memory(g, addr, data, size, true))
		send_text(g, "E0e");
	else
		send_text(g, "OK");
}

/* Binary: '}' says that the next byte was changed by 0x20. */
static void cmd_write_binary(struct gdb *g, const char *args, const char *end)
{
	u8 data[GDB_PACKET_MAX];
	const char *rest;
	u64 addr, size, used = 0;

	if (!get_range(args, &addr, &size, &rest) || *rest != ':') {
		send_text(g, "E16");
		return;
	}
	for (rest++; rest < end && used < sizeof(data); rest++) {
		if (*rest == '}' && rest + 1 < end)
			data[used++] = (u8)(*++rest ^ 0x20);
		else
			data[used++] = (u8)*rest;
	}
	send_text(g, used == size && access_memory(g, addr, data, size, true)
	                 ? "OK"
	                 : "E0e");
}

/* "Z0,addr,kind": software and hardware breakpoints are one here. */
static void cmd_breakpoint(struct gdb *g, const char *args, bool insert)
{
	struct vcpu_breakpoint p = { BREAK_EXEC, 0, 1 };
	const char *rest;
	u64 addr, size;
	size_t i;

	if (args[0] < '0' || args[0] > '4') {
		send_text(g, "");
		return;
	}
	if (args[1] != ',' || !get_range(args + 2, &addr, &size, &rest)) {
		send_text(g, "E16");
		return;
	}
	if (args[0] >= '2') {
		p.kind = args[0] == '2' ? BREAK_WRITE : BREAK_ACCESS;
		p.size = (u8)MIN(MAX(size, (u64)1), (u64)8);
	}
	p.address = addr;
	for (i = 0; i < g->point_count; i++)
		if (g->points[i].address == addr && g->points[i].kind == p.kind)
			break;
	if (insert && i == BREAKPOINTS_MAX) {
		send_text(g, "E1c");
		return;
	}
	if (insert && i == g->point_count)
		g->points[g->point_count++] = p;
	else if (!insert && i < g->point_count)
		g->points[i] = g->points[--g->point_count];
	send_text(g, "OK");
}

/* "vCont;s:1;c": the first action that fits a thread is its. */
static void cmd_vcont(struct gdb *g, const char *args)
{
	enum action actions[MACHINE_CPUS_MAX] = { STAY };
	bool chosen[MACHINE_CPUS_MAX] = { false };

	while (*args == ';') {
		size_t length = strcspn(args + 1, ";");
		const char *colon = memchr(args + 1, ':', length);
		enum action action = (args[1] | 0x20) == 's' ? STEP : GO;
		long thread = colon ? get_thread(colon + 1) : -1;

		for (unsigned i = 0; i < g->m->config.cpus; i++) {
			if (chosen[i] ||
			    (thread > 0 && (unsigned long)thread != i + 1))
				continue;
			actions[i] = action;
			chosen[i] = true;
		}
		args += 1 + length;
	}
	resume(g, actions);
}

static void cmd_v(struct gdb *g, const char *p)
{
	if (!strcmp(p, "Cont?")) {
		send_text(g, "vCont;c;C;s;S");
	} else if (!strncmp(p, "Cont;", 5)) {
		cmd_vcont(g, p + 4);
	} else if (!strncmp(p, "Kill", 4)) {
		send_text(g, "OK");
		machine_end(g->m, END_QUIT, "quit", -1,
		            "the debugger ended the machine");
	} else {
		send_text(g, "");
	}
}

static void send_threads(struct gdb *g)
{
	char text[MACHINE_CPUS_MAX * 4 + 8];
	int used = snprintf(text, sizeof(text), "m1");

	for (unsigned i = 1; i < g->m->present; i++)
		used += snprintf(text + used, sizeof(text) - (size_t)used,
		                 ",%x", i + 1);
	send_text(g, text);
}

static void send_thread_info(struct gdb *g, const char *args)
{
	long thread = get_thread(args);
	char words[32], text[2 * sizeof(words) + 1];

	if (!valid_thread(g, thread)) {
		send_text(g, "E16");
		return;
	}
	snprintf(words, sizeof(words), "vCPU %ld%s", thread - 1,
	         g->m->cpus[thread - 1].activity == CPU_ACTIVE ? ""
	                                                       : ", halted");
	put_hex(text, (const u8 *)words, strlen(words));
	send_text(g, text);
}

/* "Xfer:features:read:target.xml:offset,length" */
static void send_xml(struct gdb *g, const char *args)
{
	char text[GDB_PACKET_MAX];
	const char *rest;
	u64 offset, length, size = strlen(g->xml);

	if (!get_range(args, &offset, &length, &rest)) {
		send_text(g, "E16");
		return;
	}
	offset = MIN(offset, size);
	length = MIN(MIN(length, size - offset), sizeof(text) - 1);
	text[0] = offset + length == size ? 'l' : 'm';
	memcpy(text + 1, g->xml + offset, length);
	gdb_link_send(g->link, text, length + 1);
}

static void cmd_query(struct gdb *g, const char *p)
{
	static const char xml[] = "Xfer:features:read:target.xml:";
	char text[96];

	if (!strncmp(p, "Supported", 9)) {
		snprintf(text, sizeof(text),
		         "PacketSize=%x;qXfer:features:read+;vContSupported+;"
		         "QStartNoAckMode+",
		         GDB_PACKET_MAX - 16);
		send_text(g, text);
	} else if (!strcmp(p, "fThreadInfo")) {
		send_threads(g);
	} else if (!strcmp(p, "sThreadInfo")) {
		send_text(g, "l");
	} else if (!strncmp(p, "ThreadExtraInfo,", 16)) {
		send_thread_info(g, p + 16);
	} else if (!strcmp(p, "C")) {
		snprintf(text, sizeof(text), "QC%x", g->general + 1);
		send_text(g, text);
	} else if (!strcmp(p, "Attached") || !strncmp(p, "Attached:", 9)) {
		send_text(g, "1");
	} else if (!strncmp(p, xml, strlen(xml))) {
		send_xml(g, p + strlen(xml));
	} else {
		send_text(g, "");
	}
}

static void cmd_thread(struct gdb *g, const char *p)
{
	long thread = get_thread(p + 1);

	if (thread > 0 && !valid_thread(g, thread)) {
		send_text(g, "E16");
		return;
	}
	if (*p == 'g' && thread > 0)
		g->general = (unsigned)thread - 1;
	send_text(g, "OK");
}

/* 'c' and 's' without vCont; an address to go on from is not offered. */
static void cmd_simple_resume(struct gdb *g, bool step)
{
	enum action actions[MACHINE_CPUS_MAX];

	for (unsigned i = 0; i < MACHINE_CPUS_MAX; i++)
		actions[i] = step && i == g->general ? STEP : GO;
	resume(g, actions);
}

static void dispatch(struct gdb *g, char *p, size_t size)
{
	switch (p[0]) {
	case '?':
		report_stop(g);
		break;
	case 'g':
		cmd_registers(g);
		break;
	case 'G':
		cmd_set_registers(g, p + 1);
		break;
	case 'p':
		cmd_register(g, p + 1);
		break;
	case 'P':
		cmd_set_register(g, p + 1);
		break;
	case 'm':
		cmd_read_memory(g, p + 1);
		break;
	case 'M':
		cmd_write_memory(g, p + 1);
		break;
	case 'X':
		cmd_write_binary(g, p + 1, p + size);
		break;
	case 'Z':
	case 'z':
		cmd_breakpoint(g, p + 1, p[0] == 'Z');
		break;
	case 'H':
		cmd_thread(g, p + 1);
		break;
	case 'T':
		send_text(g, valid_thread(g, get_thread(p + 1)) ? "OK" : "E16");
		break;
	case 'q':
		cmd_query(g, p + 1);
		break;
	case 'Q':
		send_text(g, strcmp(p, "QStartNoAckMode") ? "" : "OK");
		if (!strcmp(p, "QStartNoAckMode"))
			gdb_link_no_acks(g->link);
		break;
	case 'v':
		cmd_v(g, p + 1);
		break;
	case 'c':
	case 's':
		cmd_simple_resume(g, p[0] == 's');
		break;
	case 'D':
		send_text(g, "OK");
		let_go(g);
		break;
	case 'k':
		machine_end(g->m, END_QUIT, "quit", -1,
		            "the debugger ended the machine");
		break;
	default:
		send_text(g, "");
	}
}

/* ---- the link's events ---- */

static void on_packet(void *ctx, char *data, size_t size)
{
	struct gdb *g = ctx;

	/* A packet while running: a debugger that lost its place. */
	if (!g->stopped && data[0] != 'q' && data[0] != 'k')
		stop_now(g);
	dispatch(g, data, size);
}

static void on_connected(void *ctx)
{
	struct gdb *g = ctx;

	stop_now(g);
	g->general = 0;
	g->stop_cpu = 0;
	g->stop = (struct vcpu_exit){ .reason = EXIT_KICK };
}

static void on_closed(void *ctx)
{
	let_go(ctx);
}

static void on_interrupt(void *ctx)
{
	struct gdb *g = ctx;

	if (g->stopped)
		return;
	stop_now(g);
	pthread_mutex_lock(&g->lock);
	g->pending = false;
	g->stop = (struct vcpu_exit){ .reason = EXIT_KICK };
	g->stop_cpu = g->general;
	pthread_mutex_unlock(&g->lock);
	report_stop(g);
}

struct gdb *gdb_create(struct machine *m, int listen_fd)
{
	struct gdb *g = xalloc(sizeof(*g));
	const struct gdb_link_events events = { g, on_connected, on_closed,
		                                on_packet, on_interrupt };

	g->m = m;
	g->xml = gdb_target_xml();
	pthread_mutex_init(&g->lock, NULL);
	g->link = gdb_link_create(m->loop, listen_fd, &events);
	return g;
}

void gdb_destroy(struct gdb *g)
{
	if (!g)
		return;
	gdb_link_destroy(g->link);
	pthread_mutex_destroy(&g->lock);
	free(g->xml);
	free(g);
}

void gdb_ended(struct gdb *g)
{
	char text[8];

	if (!g || !gdb_link_up(g->link))
		return;
	snprintf(text, sizeof(text), "W%02x", g->m->outcome.code & 0xff);
	send_text(g, text);
	gdb_link_hang_up(g->link);
}
