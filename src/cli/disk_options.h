/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disk_options.h - the options that make an image what it is, as create and
 * convert take them.
 */
#pragma once

#include "storage/image.h"

enum {
	OPT_BACKING = 1,
	OPT_BACKING_FORMAT,
	OPT_CLUSTER,
	OPT_REFCOUNT,
	OPT_VERSION,
	OPT_COMPRESSION,
	OPT_LAZY,
	OPT_EXTENDED,
	OPT_DATA_FILE,
	OPT_DATA_RAW,
	OPT_PREALLOCATION,
	OPT_OWN, /* where a verb's own begin */
};

#define DISK_CREATE_OPTIONS                                                    \
	{ "backing", "FILE", "show FILE's contents where nothing is written",  \
	  OPT_BACKING },                                                       \
	    { "backing-format", "F", "raw or qcow2", OPT_BACKING_FORMAT },     \
	    { "cluster-size", "SIZE", "512 to 2M (64K)", OPT_CLUSTER },        \
	    { "refcount-bits", "N", "1 to 64 (16)", OPT_REFCOUNT },            \
	    { "qcow2-version", "N", "2 or 3 (3)", OPT_VERSION },               \
	    { "compression", "M", "zlib or zstd (zlib)", OPT_COMPRESSION },    \
	    { "lazy-refcounts", NULL, "count references at close", OPT_LAZY }, \
	    { "extended-l2", NULL, "allocate in 32 parts of a cluster",        \
	      OPT_EXTENDED },                                                  \
	    { "data-file", "FILE", "keep the contents in FILE",                \
	      OPT_DATA_FILE },                                                 \
	    { "data-file-raw", NULL, "FILE is a valid raw image by itself",    \
	      OPT_DATA_RAW },                                                  \
	{                                                                      \
		"preallocation", "HOW", "off, metadata, falloc, full",         \
		    OPT_PREALLOCATION                                          \
	}

/* 0, -EINVAL with words, or 1: not one of these. */
int disk_create_option(struct image_create *how, int id, const char *value,
                       struct error *err);
