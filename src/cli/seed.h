/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seed.h - what a guest is told at its first start: a small disk labelled
 * cidata, as cloud-init's NoCloud data source reads it.
 *
 * The host name is in meta-data, the user with the keys in vendor-data, and
 * the person's own file in user-data as it is: cloud-init puts the three
 * together, the last one winning.
 */
#pragma once

#include "base/types.h"

struct error;

enum { SEED_KEYS_MAX = 16 };

struct seed {
	const char *hostname, *user, *user_data; /* NULL: none; a path */
	const char *keys[SEED_KEYS_MAX];         /* paths of public keys */
	unsigned key_count;
};

/* The options that fill it; ids are the caller's own for them. */
#define SEED_OPTIONS(user, key, data, host)                                    \
	{ "user", "NAME", "made at the first start (cloud-init)", user },      \
	    { "ssh-key", "FILE", "a public key that may log in; repeatable",   \
	      key },                                                           \
	    { "user-data", "FILE", "for cloud-init, as it is", data },         \
	{                                                                      \
		"hostname", "NAME", "what cloud-init calls it", host           \
	}

bool seed_wanted(const struct seed *seed);
int seed_add_key(struct seed *seed, const char *path,
                 struct error *err) MUST_CHECK;
/* A descriptor of the disk, for reading; the file has no name. */
int seed_make(const struct seed *seed, struct error *err) MUST_CHECK;
