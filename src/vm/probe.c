/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe - the answer of atoll-vm --probe: the processor and the engines here,
 * the kernel's services in probe_checks.c.
 */
#include "vm/probe.h"

#include <cpuid.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/end.h"
#include "base/error.h"
#include "base/types.h"
#include "machine/machine.h"

static const char *const state_names[] = {
	[PROBE_OK] = "ok",
	[PROBE_WARNING] = "warning",
	[PROBE_FAILURE] = "failure",
};

void probe_add(json_t *checks, const char *name, enum probe_state state,
               const char *text, const char *hint, json_t *facts)
{
	json_t *check = json_pack("{s:s, s:s, s:s}", "name", name, "state",
	                          state_names[state], "text", text);

	if (hint && hint[0])
		json_object_set_new(check, "hint", json_string(hint));
	json_object_set_new(check, "facts", facts ? facts : json_object());
	json_array_append_new(checks, check);
}

bool probe_line(const char *path, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(buf, (int)size, f);

	if (f)
		fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

long long probe_number(const char *path)
{
	char line[64];
	long long n;

	if (!probe_line(path, line, sizeof(line)) ||
	    sscanf(line, "%lld", &n) != 1)
		return -1;
	return n;
}

/* ---- processor ---- */

/* What matters: the levels of the x86-64 ABI, and what engines make use of. */
static const struct cpu_feature {
	const char *name;
	u32 leaf;
	enum { REG_EBX, REG_ECX, REG_EDX } reg;
	u8 bit;
	enum { NEEDED, WANTED, NICE } weight;
} cpu_features[] = {
	{ "ssse3", 1, REG_ECX, 9, NEEDED },
	{ "sse4_1", 1, REG_ECX, 19, NEEDED },
	{ "sse4_2", 1, REG_ECX, 20, NEEDED },
	{ "popcnt", 1, REG_ECX, 23, NEEDED },
	{ "cx16", 1, REG_ECX, 13, NEEDED },
	{ "xsave", 1, REG_ECX, 26, WANTED },
	{ "avx", 1, REG_ECX, 28, WANTED },
	{ "avx2", 7, REG_EBX, 5, WANTED },
	{ "bmi1", 7, REG_EBX, 3, WANTED },
	{ "bmi2", 7, REG_EBX, 8, WANTED },
	{ "fma", 1, REG_ECX, 12, NICE },
	{ "aes", 1, REG_ECX, 25, NICE },
	{ "pclmulqdq", 1, REG_ECX, 1, NICE },
	{ "sha_ni", 7, REG_EBX, 29, NICE },
	{ "rdrand", 1, REG_ECX, 30, NICE },
	{ "fsgsbase", 7, REG_EBX, 0, NICE },
	{ "erms", 7, REG_EBX, 9, NICE },
	{ "rdtscp", 0x80000001, REG_EDX, 27, NICE },
	{ "constant_tsc", 0x80000007, REG_EDX, 8, NICE },
	{ "vmx", 1, REG_ECX, 5, NICE },
	{ "svm", 0x80000001, REG_ECX, 2, NICE },
	{ "hypervisor", 1, REG_ECX, 31, NICE },
};

static bool has_feature(const struct cpu_feature *f)
{
	u32 eax, r[3];

	if (!__get_cpuid_count(f->leaf, 0, &eax, &r[REG_EBX], &r[REG_ECX],
	                       &r[REG_EDX]))
		return false;
	return r[f->reg] >> f->bit & 1;
}

static void cpu_model(char *buf, size_t size)
{
	u32 words[12] = { 0 };
	const char *text = (const char *)words;

	for (u32 i = 0; i < 3; i++)
		__get_cpuid(0x80000002 + i, &words[i * 4], &words[i * 4 + 1],
		            &words[i * 4 + 2], &words[i * 4 + 3]);
	while (*text == ' ')
		text++;
	snprintf(buf, size, "%.*s", (int)sizeof(words) - 1, text);
}

static void check_cpu(json_t *checks)
{
	json_t *present = json_array(), *missing = json_array();
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	enum probe_state state = PROBE_OK;
	char model[64], lacks[128] = "", text[256];
	const char *hint = NULL, *virt = "no hardware virtualization";

	cpu_model(model, sizeof(model));
	for (size_t i = 0; i < ARRAY_SIZE(cpu_features); i++) {
		const struct cpu_feature *f = &cpu_features[i];
		size_t used = strlen(lacks);

		if (has_feature(f)) {
			json_array_append_new(present, json_string(f->name));
			if (!strcmp(f->name, "vmx"))
				virt = "Intel VT-x";
			else if (!strcmp(f->name, "svm"))
				virt = "AMD-V";
			continue;
		}
		json_array_append_new(missing, json_string(f->name));
		if (f->weight == NICE)
			continue;
		snprintf(lacks + used, sizeof(lacks) - used, " %s", f->name);
		if (f->weight == NEEDED)
			state = PROBE_FAILURE;
		else if (state == PROBE_OK)
			state = PROBE_WARNING;
	}
	snprintf(text, sizeof(text), "%s, %ld online, %s%s%s", model, cpus,
	         virt, lacks[0] ? "; lacks" : "", lacks);
	if (state == PROBE_FAILURE)
		hint = "atoll needs x86-64-v2: a processor of 2009 or later";
	else if (state == PROBE_WARNING)
		hint = "guests get no more than the host has";
	probe_add(checks, "cpu", state, text, hint,
	          json_pack("{s:s, s:I, s:o, s:o}", "model", model, "online",
	                    (json_int_t)cpus, "features", present, "missing",
	                    missing));
}

/* ---- engines ---- */

static void check_kvm(json_t *checks)
{
	const struct engine_type *kvm = engine_find("kvm");
	struct error err = { 0 };
	bool usable;

	if (!kvm)
		return;
	/* Words either way: the figure, or why not. */
	usable = kvm->probe(&err) == 0;
	probe_add(checks, "kvm", usable ? PROBE_OK : PROBE_WARNING, err.text,
	          err.hint,
	          json_pack("{s:b, s:b}", "device",
	                    access("/dev/kvm", F_OK) == 0, "usable",
	                    (int)usable));
}

/* What --engine auto takes: the first whose probe says yes. */
static const char *check_engine(json_t *checks)
{
	char text[128];

	for (size_t i = 0; engine_types[i]; i++) {
		struct error err = { 0 };

		if (engine_types[i]->probe(&err) < 0)
			continue;
		snprintf(text, sizeof(text), "auto takes %s: %s",
		         engine_types[i]->name, engine_types[i]->about);
		probe_add(checks, "engine", PROBE_OK, text, NULL,
		          json_pack("{s:s}", "auto", engine_types[i]->name));
		return engine_types[i]->name;
	}
	probe_add(checks, "engine", PROBE_FAILURE, "none runs on this host",
	          "atoll --version and this output belong in a bug report",
	          NULL);
	return NULL;
}

int vm_probe_main(void)
{
	json_t *checks = json_array(), *root;
	const char *engine;
	int rc;

	check_cpu(checks);
	check_kvm(checks);
	engine = check_engine(checks);
	probe_checks(checks);
	root = json_pack("{s:s?, s:o}", "engine", engine, "checks", checks);
	rc = json_dumpf(root, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(root);
	return rc || fflush(stdout) ? END_FAILURE : 0;
}
