/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load - finds out what a kernel file is, and has it loaded.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "machine/boot/boot.h"
#include "machine/boot/elf.h"
#include "machine/boot/file.h"
#include "machine/boot/linux.h"
#include "machine/boot/multiboot.h"
#include "machine/boot/pvh.h"

enum { HEAD_BYTES = 8192 };

static int check_files(struct boot_request *req, struct error *err)
{
	int rc = boot_file_check(&req->kernel, "the kernel", err);

	if (rc == 0 && req->initrd.fd >= 0)
		rc = boot_file_check(&req->initrd, "the initrd", err);
	for (unsigned i = 0; rc == 0 && i < req->module_count; i++)
		rc = boot_file_check(&req->modules[i], "module", err);
	return rc;
}

static int load_by_content(const struct boot_request *req, const u8 *head,
                           u64 size, struct cpu_state *bsp, struct error *err)
{
	if (linux_detect(head, size)) {
		if (req->module_count)
			return error_set(err, -EINVAL,
			                 "a Linux kernel takes "
			                 "an initrd, no modules");
		return linux_load(req, head, size, bsp, err);
	}
	if (multiboot_detect(head, size))
		return multiboot_load(req, head, size, bsp, err);
	if (elf_magic(head, size))
		return pvh_load(req, bsp, err);
	error_set(err, -ENOEXEC, "%s is no kernel known here",
	          req->kernel.path);
	return error_hint(err, "known are: Linux bzImage, ELF with a PVH note, "
	                       "multiboot 1");
}

int boot_load(const struct boot_request *request, struct cpu_state *bsp,
              struct error *err)
{
	struct boot_request req = *request;
	u64 size;
	u8 *head;
	int rc = check_files(&req, err);

	if (rc < 0)
		return rc;
	head = xalloc(HEAD_BYTES);
	size = MIN(req.kernel.size, (u64)HEAD_BYTES);
	rc = boot_file_read(&req.kernel, 0, head, size, err);
	if (rc == 0)
		rc = load_by_content(&req, head, size, bsp, err);
	free(head);
	return rc;
}
