/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_config - machine files: good ones are read, bad ones refused in words
 * that name the place, and descriptors are closed when nobody wants them.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "vm/config.h"

enum { FDS = 8 };

static int fds[FDS];

static void open_fds(void)
{
	for (int i = 0; i < FDS; i++)
		fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
}

static bool is_open(int i)
{
	return fcntl(fds[i], F_GETFD) >= 0;
}

static void close_fds(void)
{
	for (int i = 0; i < FDS; i++)
		if (is_open(i))
			close(fds[i]);
}

static int parse(const char *text, struct vm_config *config, struct error *err)
{
	json_error_t why;
	json_t *json = json_loads(text, 0, &why);
	int rc;

	if (!json)
		fail_msg("%s: %s", text, why.text);
	memset(err, 0, sizeof(*err));
	rc = vm_config_parse(json, fds, FDS, config, err);
	json_decref(json);
	return rc;
}

static void full_file_is_read(void **state)
{
	struct vm_config c;
	struct error err;

	(void)state;
	open_fds();
	if (parse("{\"name\":\"web\",\"engine\":\"interp\",\"cpus\":4,"
	          "\"memory_bytes\":1073741824,"
	          "\"boot\":{\"kernel\":0,\"kernel_path\":\"vmlinuz\","
	          "\"initrd\":1,\"cmdline\":\"quiet\",\"modules\":[],"
	          "\"unpack\":\"no\"},"
	          "\"disks\":[{\"fd\":2,\"path\":\"a.img\",\"serial\":\"s\","
	          "\"readonly\":true,\"cache\":\"none\",\"iops\":500,\"bytes_"
	          "burst\":4096,"
	          "\"chain\":[{\"fd\":6,\"path\":\"b.img\","
	          "\"format\":\"raw\"}]}],"
	          "\"nics\":[{\"fd\":3,\"mac\":\"52:54:00:ab:cd:ef\","
	          "\"mtu\":9000}],"
	          "\"serials\":[{\"in\":4,\"out\":4},{\"out\":5}],"
	          "\"rng\":true,\"devices\":[\"testdev\"],"
	          "\"timeout_s\":7,\"report\":null}",
	          &c, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(c.machine.name, "web");
	assert_int_equal(c.machine.cpus, 4);
	assert_int_equal(c.machine.kernel_fd, fds[0]);
	assert_int_equal(c.machine.initrd_fd, fds[1]);
	assert_string_equal(c.machine.cmdline, "quiet");
	assert_int_equal(c.machine.unpack, UNPACK_NO);
	assert_int_equal(c.machine.disk_count, 1);
	assert_int_equal(c.machine.disks[0].fd, fds[2]);
	assert_true(c.machine.disks[0].readonly);
	assert_int_equal(c.machine.disks[0].cache, CACHE_NONE);
	assert_string_equal(c.machine.disks[0].format, "raw");
	assert_int_equal(c.machine.disks[0].iops, 500);
	assert_int_equal(c.machine.disks[0].bytes_burst, 4096);
	assert_int_equal(c.machine.disks[0].chain_count, 1);
	assert_int_equal(c.machine.disks[0].chain[0].fd, fds[6]);
	assert_string_equal(c.machine.disks[0].chain[0].path, "b.img");
	assert_int_equal(c.machine.nics[0].mac[5], 0xef);
	assert_int_equal(c.machine.nics[0].mtu, 9000);
	assert_int_equal(c.machine.serial_count, 2);
	assert_int_equal(c.machine.serials[1].in, -1);
	assert_true(c.machine.testdev && !c.machine.debug_exit);
	assert_int_equal(c.machine.timeout_ns, 7 * NSEC_PER_SEC);
	assert_int_equal(c.report_fd, -1);
	assert_int_equal(c.machine.gdb_fd, -1);
	assert_true(is_open(5) && is_open(6) && !is_open(7));
	vm_config_fini(&c);
	close_fds();
}

static void bad_files_are_refused(void **state)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{ "[]", "is not an object" },
		{ "{}", "boot is missing" },
		{ "{\"boot\":[]}", "boot is not an object" },
		{ "{\"boot\":{},\"colour\":1}", "colour is not known" },
		{ "{\"boot\":{\"kernle\":1}}", "boot.kernle is not known" },
		{ "{\"boot\":{\"kernel\":8}}", "was not sent" },
		{ "{\"boot\":{\"kernel\":-1}}", "boot.kernel is not from" },
		{ "{\"boot\":{\"kernel\":\"0\"}}", "not a whole number" },
		{ "{\"boot\":{\"modules\":[null]}}", "boot.modules[0]" },
		{ "{\"boot\":{\"unpack\":\"maybe\"}}", "none of auto" },
		{ "{\"boot\":{\"cmdline\":\"a\\nb\"}}", "control characters" },
		{ "{\"boot\":{},\"cpus\":0}", "cpus is not from 1" },
		{ "{\"boot\":{},\"cpus\":65}", "cpus is not from 1" },
		{ "{\"boot\":{},\"cpus\":2.5}", "not a whole number" },
		{ "{\"boot\":{},\"memory_bytes\":9223372036854775807}",
		  "memory_bytes" },
		{ "{\"boot\":{},\"rng\":1}", "neither true nor false" },
		{ "{\"boot\":{},\"disks\":[{}]}", "disks[0].fd is missing" },
		{ "{\"boot\":{},\"disks\":[1]}", "disks[0] is not an object" },
		{ "{\"boot\":{},\"disks\":[{\"fd\":2,\"cache\":\"some\"}]}",
		  "disks[0].cache is not writeback" },
		{ "{\"boot\":{},\"disks\":{}}", "not an array" },
		{ "{\"boot\":{},\"disks\":[{\"fd\":1,\"chain\":[{\"fd\":2,"
		  "\"path\":\"x\"}]}]}",
		  "disks[0].chain[0].format is missing" },
		{ "{\"boot\":{},\"disks\":[{\"fd\":1,\"chain\":[{\"fd\":1,"
		  "\"path\":\"x\",\"format\":\"raw\"}]}]}",
		  "used twice" },
		{ "{\"boot\":{},\"disks\":[{\"fd\":1},{\"fd\":1}]}",
		  "used twice" },
		{ "{\"boot\":{\"kernel\":1},\"disks\":[{\"fd\":1}]}",
		  "used twice" },
		{ "{\"boot\":{},\"disks\":[{\"fd\":1,\"serial\":"
		  "\"123456789012345678901\"}]}",
		  "too long" },
		{ "{\"boot\":{},\"nics\":[{\"fd\":1}]}", "mac is missing" },
		{ "{\"boot\":{},\"nics\":[{\"fd\":1,\"mac\":"
		  "\"01:00:00:00:00:00\"}]}",
		  "multicast" },
		{ "{\"boot\":{},\"nics\":[{\"fd\":1,\"mac\":"
		  "\"52:54:00:12:34\"}]}",
		  "six hexadecimal" },
		{ "{\"boot\":{},\"nics\":[{\"fd\":1,\"type\":\"pipe\"}]}",
		  "neither socket nor tap" },
		{ "{\"boot\":{},\"devices\":[\"toaster\"]}", "neither" },
		{ "{\"boot\":{},\"name\":\"\\u001b[2J\"}",
		  "control characters" },
		{ "{\"boot\":{},\"serials\":[{},{},{},{},{}]}", "too many" },
		{ "{\"boot\":{},\"timeout_s\":-5}", "timeout_s" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vm_config c;
		struct error err;

		open_fds();
		assert_true(parse(bad[i].text, &c, &err) < 0);
		if (!strstr(err.text, bad[i].words))
			fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].text,
			         err.text, bad[i].words);
		for (int n = 0; n < FDS; n++)
			assert_false(is_open(n));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(full_file_is_read),
		cmocka_unit_test(bad_files_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
