/* SPDX-License-Identifier: Apache-2.0 */
/*
 * harden.h - the hardening checklist: what of it this host and this daemon
 * keep, with the reason and what to do.
 *
 *	list.c      the list and its parts
 *	kernel.c    what the kernel of the host says
 *	system.c    what else is set up on the host
 *	confined.c  how machines and the daemon are shut in
 *	service.c   what the daemon serves, to whom, and what machines may have
 *	users.c     who may come in, and with what
 *	api.c       GET /v1/host/audit
 */
#pragma once

#include <jansson.h>

#include "base/types.h"

struct daemon;

enum harden_state { HARDEN_PASS, HARDEN_FAIL, HARDEN_NOT_APPLICABLE };

/* Where each comes from. */
#define HARDEN_PLATFORM "SP 800-125A"
#define HARDEN_NETWORK "SP 800-125B"
#define HARDEN_CIS "CIS"

struct harden {
	int root; /* the folder that is "/": borrowed */
	json_t *checks;
	unsigned count[3]; /* by state */
};

struct harden_check {
	const char *name, *area, *title;
	const char *hint; /* what to do when it fails */
};

/* What was found, in words. */
void harden_add(struct harden *h, const struct harden_check *check,
                enum harden_state state, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* Pass if good, with one of two reasons. */
void harden_if(struct harden *h, const struct harden_check *check, bool good,
               const char *yes, const char *no);

/* Names after one another, as far as they fit; and the check that there is
 * none of them. */
struct harden_names {
	char text[300];
	unsigned count;
};
void harden_name(struct harden_names *n, const char *name);
void harden_verdict(struct harden *h, const struct harden_check *check,
                    const struct harden_names *bad, const char *good);

/* A whole small file below root, its last newline gone; false: not there. */
bool harden_read(const struct harden *h, const char *path, char *text,
                 size_t size);

void harden_kernel(struct harden *h);
void harden_system(struct harden *h);
void harden_confined(struct harden *h, struct daemon *d);
void harden_service(struct harden *h, struct daemon *d);
void harden_users(struct harden *h, struct daemon *d);

/* {"passed":N,"failed":N,"not_applicable":N,"checks":[...]} */
json_t *harden_json(struct harden *h);
