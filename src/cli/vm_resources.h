/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_resources.h - options of a definition that say what a machine gets of the
 * host, and whose it is.
 */
#pragma once

#include <jansson.h>

#include "cli/remote.h"

struct error;

/* Ids from here on are theirs. */
enum { OPT_RESOURCES = OPT_OWN + 100 };

#define RESOURCE_OPTIONS                                                       \
	{ "project", "PROJECT", "whose quotas and roles count (default)",      \
	  OPT_RESOURCES },                                                     \
	    { "owner", "WHO", "whom to ask about it", OPT_RESOURCES + 1 },     \
	    { "expires", "TIME", "as 30d or 2026-12-31: when it may go",       \
	      OPT_RESOURCES + 2 },                                             \
	    { "cpu-weight", "N", "1 to 10000 against others (100)",            \
	      OPT_RESOURCES + 3 },                                             \
	    { "cpu-limit", "PERCENT", "of one processor; 0 is none",           \
	      OPT_RESOURCES + 4 },                                             \
	    { "cpu-reservation", "PERCENT", "of one processor",                \
	      OPT_RESOURCES + 5 },                                             \
	    { "cpu-pin", "LIST", "processors, as 0-3,6", OPT_RESOURCES + 6 },  \
	    { "memory-max", "SIZE", "what it may grow to while it runs",       \
	      OPT_RESOURCES + 7 },                                             \
	    { "memory-reservation", "SIZE", "never taken from it",             \
	      OPT_RESOURCES + 8 },                                             \
	    { "memory-limit", "SIZE", "no more than that; 0 is none",          \
	      OPT_RESOURCES + 9 },                                             \
	    { "memory-target", "SIZE", "what it should have now",              \
	      OPT_RESOURCES + 10 },                                            \
	    { "memory-hard-limit", "SIZE", "ended above that; 0 is none",      \
	      OPT_RESOURCES + 11 },                                            \
	    { "io-weight", "N", "of disks, 1 to 10000 (100)",                  \
	      OPT_RESOURCES + 12 },                                            \
	{                                                                      \
		"share-memory", "on|off", "equal pages with other machines",   \
		    OPT_RESOURCES + 13                                         \
	}

/* Puts an option's value into the definition. */
int resources_option(json_t *spec, int id, const char *value,
                     struct error *err) MUST_CHECK;
