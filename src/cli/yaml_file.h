/* SPDX-License-Identifier: Apache-2.0 */
/*
 * yaml_file.h - a YAML file as the JSON it stands for.
 */
#pragma once

#include <jansson.h>

struct error;

/* One document. Plain scalars are null, booleans, whole numbers or strings;
 * quoted ones are strings. NULL, and words with the line. */
json_t *yaml_file_read(const char *path, struct error *err);
