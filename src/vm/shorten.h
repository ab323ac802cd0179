/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shorten.h - chains of disks that copies have made long are made short.
 *
 * Each copy puts an image on a disk that no path leads to. When there are more
 * than a few, the topmost are written into the disk's own image, at a bounded
 * rate and while the guest goes on (storage/jobs/rebase.c): the images below
 * are only read, so it does not matter who else lies on them. It is work like
 * any other on a disk, but gives way to whoever wants the disk.
 */
#pragma once

#include "base/loop.h"

struct loop;
struct vm_config;
struct works;

struct shorten {
	struct loop *loop;
	struct vm_config *config;
	struct works *works;
	struct loop_timer timer;
	/* Not now: the machine is being saved. */
	bool (*may)(void *ctx);
	void *ctx;
};

/* The rest is filled in. Looks at the chains that the machine came with. */
void shorten_init(struct shorten *s);
void shorten_fini(struct shorten *s);
/* The chains are longer by one; or it had to give way. Before long. */
void shorten_soon(struct shorten *s);
