/* SPDX-License-Identifier: Apache-2.0 */
#include "base/filter_make.h"

#include <errno.h>
#include <linux/filter.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/filter.h"

/* Programs of the kernel's are no longer (BPF_MAXINSNS). */
enum { MOST = 4096 };

scmp_filter_ctx filter_begin(unsigned other)
{
	/* It runs elsewhere: what the kernel here has does not matter. */
	seccomp_api_set(3);
	return seccomp_init(other);
}

int filter_add_all(scmp_filter_ctx ctx, u32 action, const int *calls,
                   size_t count)
{
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++)
		rc = seccomp_rule_add(ctx, action, calls[i], 0);
	return rc;
}

/* The one rule that compares with FILTER_OWN_PID. */
static int allow_own_signals(scmp_filter_ctx ctx)
{
	return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
	                        SCMP_A0_32(SCMP_CMP_EQ, FILTER_OWN_PID));
}

/* How many there are, or -errno. */
static int compile(scmp_filter_ctx ctx, struct sock_filter *code)
{
	int fd = memfd_create("filter", MFD_CLOEXEC), rc;
	ssize_t n = -1;

	if (fd < 0)
		return -errno;
	/* Found by halving, not one after the other. */
	rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (rc == 0)
		rc = seccomp_export_bpf(ctx, fd);
	if (rc == 0)
		n = pread(fd, code, MOST * sizeof(*code), 0);
	if (rc == 0 && n < 0)
		rc = -errno;
	close(fd);
	return rc < 0 ? rc : (int)((size_t)n / sizeof(*code));
}

static int own_pid(const struct sock_filter *code, int count)
{
	int at = -EINVAL;

	for (int i = 0; i < count; i++) {
		if (code[i].k != FILTER_OWN_PID)
			continue;
		if (at >= 0 || code[i].code != (BPF_JMP | BPF_JEQ | BPF_K))
			return -EINVAL;
		at = i;
	}
	return at;
}

int filter_print(scmp_filter_ctx ctx, int rc, const char *name)
{
	static struct sock_filter code[MOST];
	int pid_at = -EINVAL;

	if (rc == 0)
		rc = allow_own_signals(ctx);
	if (rc == 0)
		rc = compile(ctx, code);
	if (rc >= 0)
		pid_at = own_pid(code, rc);
	seccomp_release(ctx);
	if (pid_at < 0) {
		fprintf(stderr, "%s: %s\n", name,
		        strerror(rc < 0 ? -rc : -pid_at));
		return 1;
	}
	printf("#include \"base/filter.h\"\n\n"
	       "static const struct sock_filter %s_code[] = {\n",
	       name);
	for (int i = 0; i < rc; i++)
		printf("\t{ %#x, %u, %u, %#x },\n", code[i].code, code[i].jt,
		       code[i].jf, code[i].k);
	printf("};\n\nconst struct filter %s = { %s_code, %d, %d };\n", name,
	       name, rc, pid_at);
	return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
