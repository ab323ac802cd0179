/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_gdb - GDB itself debugs a machine of two vCPUs: registers, memory,
 * breakpoint, step, watchpoint, threads, detach.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/loop.h"
#include "kernels.h"
#include "machine/machine.h"

extern const u8 guest[], guest_end[];
/* Counts in memory until somebody writes to 0x500000. */
__asm__(".pushsection .rodata\n.code32\n"
        "guest: xor %eax, %eax\n" /* 0x400040 */
        "mov $0x1234, %ecx\n"     /* 0x400042 */
        "1: inc %eax\n"           /* 0x400047 */
        "mov %eax, 0x500010\n"    /* 0x400048 */
        "cmpl $0, 0x500000\n"     /* 0x40004d */
        "je 1b\n"
        "mov $0xf4, %edx\nmov $21, %eax\nout %eax, %dx\n"
        "2: hlt\njmp 2b\n"
        "guest_end:\n.code64\n.popsection\n");

static char script_output[16384];

static int listen_anywhere(unsigned *port)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t size = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, size), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &size), 0);
	*port = ntohs(addr.sin_port);
	return fd;
}

static void *run_gdb(void *ctx)
{
	char command[2048];
	size_t used = 0;
	FILE *f;

	snprintf(command, sizeof(command),
	         "timeout 200 gdb -batch -nx -ex 'set confirm off' "
	         "-ex 'target remote 127.0.0.1:%u' "
	         "-ex 'hbreak *0x400048' -ex 'continue' "
	         "-ex 'print/x $rip' -ex 'print/x $rcx' -ex 'print $cs' "
	         "-ex 'x/2xb 0x400040' "
	         "-ex 'delete' -ex 'stepi' -ex 'print/x $rip' "
	         "-ex 'print/x $cr0' -ex 'set var $rax = 0x77' "
	         "-ex 'watch *(int *)0x500010' -ex 'continue' "
	         "-ex 'print/x *(int *)0x500010' -ex 'delete' "
	         "-ex 'info threads' "
	         "-ex 'set var *(int *)0x500000 = 1' -ex 'detach' 2>&1",
	         *(unsigned *)ctx);
	f = popen(command, "r");
	if (!f)
		return NULL;
	while (used < sizeof(script_output) - 1) {
		size_t n = fread(script_output + used, 1,
		                 sizeof(script_output) - 1 - used, f);

		if (!n)
			break;
		used += n;
	}
	pclose(f);
	return NULL;
}

static void expect(const char *words)
{
	if (!strstr(script_output, words))
		fail_msg("gdb did not print \"%s\" but:\n%s", words,
		         script_output);
}

static void gdb_debugs_a_machine(void **state)
{
	struct machine_outcome outcome;
	struct error err = { 0 };
	struct machine_config config = {
		.name = "test",
		.engine = "interp",
		.cpus = 2,
		.memory_bytes = 64 * MIB,
		.initrd_fd = -1,
		.kernel_path = "kernel",
		.debug_exit = true,
		.timeout_ns = 60 * NSEC_PER_SEC,
	};
	struct machine *m;
	struct loop *loop;
	pthread_t thread;
	unsigned port;
	size_t size;
	u8 *data;

	(void)state;
	if (system("gdb --version >/dev/null 2>&1") != 0)
		skip(); /* gdb is not installed */
	data = kernel_make(KERNEL_MULTIBOOT_FLAT, &size);
	memcpy(data + 4096 + 64, guest, (size_t)(guest_end - guest));
	config.kernel_fd = kernel_file(data, size);
	free(data);
	config.gdb_fd = listen_anywhere(&port);
	assert_int_equal(loop_create(&loop, &err), 0);
	if (machine_create(&m, &config, loop, &err) < 0)
		fail_msg("%s", err.text);
	close(config.kernel_fd);
	pthread_create(&thread, NULL, run_gdb, &port);
	machine_run(m, &outcome);
	machine_destroy(m);
	pthread_join(thread, NULL);
	loop_destroy(loop);

	expect("= 0x400048");
	expect("= 0x1234");
	expect("= 16");
	expect("0x31\t0xc0");
	expect("= 0x40004d");
	expect("= 0x11");
	expect("Hardware watchpoint");
	expect("= 0x78");
	expect("vCPU 1, halted");
	expect("detached");
	assert_string_equal(outcome.cause, "guest-exit");
	assert_int_equal(outcome.code, 43);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gdb_debugs_a_machine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
