/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_machine - the life of whole machines, each running a few instructions
 * under the reference engine: output, input, every way to end, reset, pause.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/loop.h"
#include "kernels.h"
#include "machine/machine.h"

/*
 * 32-bit guests, entered as multiboot kernels. COM1 is at 0x3f8; its line
 * status (0x3fd) has bit 5 when it takes a byte, bit 0 when it has one.
 */
#define GUEST(name, code)                                                      \
	extern const u8 name[], name##_end[];                                  \
	__asm__(".pushsection .rodata\n.code32\n" #name ":\n" code "\n" #name  \
	        "_end:\n.code64\n.popsection\n")

#define PUT(c)                                                                 \
	"mov $0x3fd, %edx\n1: in %dx, %al\ntest $0x20, %al\njz 1b\n"           \
	"mov $0x3f8, %edx\nmov $" c ", %al\nout %al, %dx\n"
#define EXIT(n) "mov $0xf4, %edx\nmov $" n ", %eax\nout %eax, %dx\n"
#define STOP "1: cli\nhlt\njmp 1b\n"

GUEST(guest_hello, PUT("'h'") PUT("'i'") EXIT("3") STOP);
GUEST(guest_triple, PUT("'t'") "lidt zero - guest_triple + 0x400040\n"
                               "ud2\nzero: .long 0, 0\n");
GUEST(guest_forever, PUT("'f'") STOP);
GUEST(guest_spin, "1: jmp 1b\n");
/* The reset port; a byte of CMOS RAM tells the second time from the first. */
GUEST(guest_reset,
      "mov $0x70, %edx\nmov $0x40, %al\nout %al, %dx\n"
      "inc %edx\nin %dx, %al\ncmp $0x5a, %al\nje 2f\n"
      "mov $0x5a, %al\nout %al, %dx\n" PUT(
	  "'1'") "mov $0xcf9, %edx\nmov $6, %al\nout %al, %dx\n" STOP
                 "2:\n" PUT("'2'") EXIT("0") STOP);
/* PM1a control: SLP_TYP 0 and SLP_EN. */
GUEST(guest_off, PUT("'o'") "mov $0x604, %edx\nmov $0x2000, %ax\n"
                            "out %ax, %dx\n" STOP);
/* Echo until 'q'. */
GUEST(
    guest_echo,
    "3: mov $0x3fd, %edx\n4: in %dx, %al\ntest $1, %al\njz 4b\n"
    "mov $0x3f8, %edx\nin %dx, %al\nout %al, %dx\ncmp $'q', %al\njne 3b\n" EXIT(
	"1") STOP);
/* Prints without end: 64 KiB and then some, until the reader has it all. */
GUEST(guest_flood,
      "mov $200000, %ecx\n"
      "3: mov $0x3fd, %edx\n4: in %dx, %al\ntest $0x20, %al\njz 4b\n"
      "mov $0x3f8, %edx\nmov %cl, %al\nout %al, %dx\nloop 3b\n" EXIT("0") STOP);
/* Waits for the power button's status bit, then turns itself off. */
GUEST(guest_button,
      PUT("'b'") "3: mov $0x600, %edx\nin %dx, %ax\n"
                 "test $0x100, %ax\njz 3b\n"
                 "mov $0x604, %edx\nmov $0x2000, %ax\nout %ax, %dx\n" STOP);

struct run {
	struct machine_config config;
	int out[2], in[2];
	struct machine_outcome outcome;
	char text[512]; /* what the guest printed */
	size_t total;   /* all of it */
	char *report;
	void (*act)(struct machine *m, struct run *run); /* on a thread */
	struct machine *machine;
};

/* A flat multiboot kernel around the code. */
static int make_kernel(const u8 *code, const u8 *end)
{
	size_t size;
	u8 *data = kernel_make(KERNEL_MULTIBOOT_FLAT, &size);
	int fd;

	memcpy(data + 4096 + 64, code, (size_t)(end - code));
	fd = kernel_file(data, size);
	free(data);
	return fd;
}

static void *reader(void *ctx)
{
	struct run *run = ctx;
	char buf[4096];
	ssize_t n;

	while ((n = read(run->out[0], buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			if (run->total + (size_t)i < sizeof(run->text) - 1)
				run->text[run->total + (size_t)i] = buf[i];
		__atomic_fetch_add(&run->total, (size_t)n, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void *actor(void *ctx)
{
	struct run *run = ctx;

	run->act(run->machine, run);
	return NULL;
}

static void setup_run(struct run *run, const u8 *code, const u8 *end)
{
	memset(run, 0, sizeof(*run));
	assert_int_equal(pipe2(run->out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(run->in, O_CLOEXEC), 0);
	run->config = (struct machine_config){
		.name = "test",
		.engine = "interp",
		.cpus = 1,
		.memory_bytes = 64 * MIB,
		.kernel_fd = make_kernel(code, end),
		.initrd_fd = -1,
		.kernel_path = "kernel",
		.gdb_fd = -1,
		.serials = { { run->in[0], run->out[1] } },
		.serial_count = 1,
		.debug_exit = true,
		.timeout_ns = 20 * NSEC_PER_SEC,
	};
}

static void go(struct run *run)
{
	pthread_t threads[2];
	struct error err = { 0 };
	struct loop *loop;

	assert_int_equal(loop_create(&loop, &err), 0);
	if (machine_create(&run->machine, &run->config, loop, &err) < 0)
		fail_msg("%s", err.text);
	close(run->config.kernel_fd);
	pthread_create(&threads[0], NULL, reader, run);
	if (run->act)
		pthread_create(&threads[1], NULL, actor, run);
	machine_run(run->machine, &run->outcome);
	run->report = machine_report(run->machine);
	if (run->act)
		pthread_join(threads[1], NULL);
	machine_destroy(run->machine);
	loop_destroy(loop);
	close(run->out[1]);
	pthread_join(threads[0], NULL);
	close(run->out[0]);
	close(run->in[0]);
	close(run->in[1]);
	free(run->report);
}

#define RUN(r, name) setup_run(&(r), name, name##_end)

static void guest_ends_with_a_code(void **state)
{
	struct run run;

	(void)state;
	RUN(run, guest_hello);
	go(&run);
	assert_string_equal(run.text, "hi");
	assert_string_equal(run.outcome.cause, "guest-exit");
	assert_int_equal(run.outcome.code, 7);
}

/* The file of a disk takes writes, and then can't put them on the medium. */
static bool medium_is_bad;

int fdatasync(int fd)
{
	if (!medium_is_bad)
		return fsync(fd);
	errno = EIO;
	return -1;
}

/* And it is on one: a file in memory, as these are, has nothing to flush. */
int fstatfs(int fd, struct statfs *fs)
{
	(void)fd;
	*fs = (struct statfs){ .f_type = EXT4_SUPER_MAGIC };
	return 0;
}

static void run_with_disk(struct run *run, bool readonly)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, MIB), 0);
	run->config.disk_count = 1;
	run->config.disks[0] = (struct machine_disk){
		.fd = fd, .format = "raw", .path = "disk", .readonly = readonly
	};
	go(run);
}

static void lost_writes_are_told(void **state)
{
	struct run run;

	(void)state;
	medium_is_bad = true;
	RUN(run, guest_off);
	run_with_disk(&run, false);
	assert_string_equal(run.outcome.cause, "lost-writes");
	assert_int_equal(run.outcome.code, 21);
	assert_non_null(strstr(run.outcome.words, "disk 1: the last writes"));
	/* Another end stays what it was, and tells that as well. */
	RUN(run, guest_triple);
	run_with_disk(&run, false);
	assert_string_equal(run.outcome.cause, "triple-fault");
	assert_non_null(strstr(run.outcome.words, "disk 1: the last writes"));
	/* Nothing was written to these. */
	RUN(run, guest_off);
	run_with_disk(&run, true);
	assert_string_equal(run.outcome.cause, "power-off");
	medium_is_bad = false;
	RUN(run, guest_off);
	run_with_disk(&run, false);
	assert_int_equal(run.outcome.code, 0);
}

static void power_off_ends_with_zero(void **state)
{
	struct run run;

	(void)state;
	RUN(run, guest_off);
	go(&run);
	assert_string_equal(run.text, "o");
	assert_string_equal(run.outcome.cause, "power-off");
	assert_int_equal(run.outcome.code, END_POWER_OFF);
}

static void triple_fault_says_where(void **state)
{
	struct run run;

	(void)state;
	RUN(run, guest_triple);
	go(&run);
	assert_string_equal(run.outcome.cause, "triple-fault");
	assert_int_equal(run.outcome.code, END_TRIPLE_FAULT);
	assert_non_null(strstr(run.outcome.words, "rip"));
}

static void timeout_says_where(void **state)
{
	struct run run;

	(void)state;
	RUN(run, guest_spin);
	run.config.timeout_ns = 100 * NSEC_PER_MSEC;
	go(&run);
	assert_string_equal(run.outcome.cause, "timeout");
	assert_int_equal(run.outcome.code, END_TIMEOUT);
	assert_non_null(strstr(run.outcome.words, "0000000000400040"));
}

static void reset_starts_over(void **state)
{
	struct run run;

	(void)state;
	RUN(run, guest_reset);
	go(&run);
	assert_string_equal(run.text, "12");
	assert_string_equal(run.outcome.cause, "guest-exit");
}

static void type(struct machine *m, struct run *run)
{
	(void)m;
	assert_int_equal(write(run->in[1], "abcdefghijklmnopqrstuvwxyzq", 27),
	                 27);
}

static void input_arrives_whole(void **state)
{
	struct run run;

	(void)state;
	RUN(run, guest_echo);
	run.act = type;
	go(&run);
	assert_string_equal(run.text, "abcdefghijklmnopq");
	assert_int_equal(run.outcome.code, 3);
}

static void no_output_is_lost(void **state)
{
	struct run run;

	(void)state;
	RUN(run, guest_flood);
	go(&run);
	assert_int_equal(run.total, 200000);
	assert_int_equal(run.outcome.code, 1);
}

static void press_button(struct machine *m, struct run *run)
{
	(void)run;
	usleep(50000);
	machine_power_button(m);
}

static void power_button_is_seen(void **state)
{
	struct run run;

	(void)state;
	RUN(run, guest_button);
	run.act = press_button;
	go(&run);
	assert_string_equal(run.outcome.cause, "power-off");
}

/* Until the guest has printed so much; a busy host takes its time. */
static void wait_for_text(const struct run *run, size_t size)
{
	for (int i = 0; i < 100000; i++) {
		if (__atomic_load_n(&run->total, __ATOMIC_ACQUIRE) >= size)
			return;
		usleep(1000);
	}
}

static void pause_and_quit(struct machine *m, struct run *run)
{
	for (int i = 0; i < 20; i++) {
		machine_pause(m);
		machine_resume(m);
	}
	machine_pause(m);
	usleep(20000);
	machine_resume(m);
	wait_for_text(run, 1);
	machine_reset(m, "test");
	wait_for_text(run, 2);
	machine_quit(m, END_QUIT, "quit", "enough");
}

static void many_cpus_pause_reset_and_quit(void **state)
{
	struct run run;

	(void)state;
	RUN(run, guest_forever);
	run.config.cpus = 4;
	run.act = pause_and_quit;
	go(&run);
	assert_string_equal(run.outcome.cause, "quit");
	assert_string_equal(run.outcome.words, "enough");
	assert_string_equal(run.text, "ff");
}

static void assert_no_machine(struct machine_config *config, const char *words)
{
	struct error err = { 0 };
	struct machine *m;
	struct loop *loop;

	assert_int_equal(loop_create(&loop, &err), 0);
	assert_true(machine_create(&m, config, loop, &err) < 0);
	if (!strstr(err.text, words))
		fail_msg("\"%s\" does not say \"%s\"", err.text, words);
	loop_destroy(loop);
}

static void bad_configs_are_refused(void **state)
{
	struct machine_config good, bad;
	struct run run;

	(void)state;
	RUN(run, guest_hello);
	good = run.config;
	bad = good;
	bad.cpus = 0;
	assert_no_machine(&bad, "1 to 64 vCPUs");
	bad = good;
	bad.memory_bytes = 16 * MIB;
	assert_no_machine(&bad, "too little memory");
	bad = good;
	bad.memory_bytes += 1;
	assert_no_machine(&bad, "whole number of pages");
	bad = good;
	bad.memory_bytes = BIT(45);
	assert_no_machine(&bad, "more memory than the host has");
	bad = good;
	bad.engine = "steam";
	assert_no_machine(&bad, "no engine named");
	bad = good;
	bad.kernel_fd = -1;
	assert_no_machine(&bad, "no kernel");
	bad = good;
	bad.disk_count = 1;
	bad.disks[0] = (struct machine_disk){ .fd = open("/dev/null", O_RDWR),
		                              .path = "null",
		                              .format = "tar" };
	assert_no_machine(&bad, "tar");
	close(good.kernel_fd);
	for (int i = 0; i < 2; i++) {
		close(run.in[i]);
		close(run.out[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_ends_with_a_code),
		cmocka_unit_test(power_off_ends_with_zero),
		cmocka_unit_test(lost_writes_are_told),
		cmocka_unit_test(triple_fault_says_where),
		cmocka_unit_test(timeout_says_where),
		cmocka_unit_test(reset_starts_over),
		cmocka_unit_test(input_arrives_whole),
		cmocka_unit_test(no_output_is_lost),
		cmocka_unit_test(power_button_is_seen),
		cmocka_unit_test(many_cpus_pause_reset_and_quit),
		cmocka_unit_test(bad_configs_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
