/* SPDX-License-Identifier: Apache-2.0 */
/*
 * yaml_out.h - JSON values as YAML, for people to read and programs alike.
 */
#pragma once

#include <jansson.h>
#include <stdio.h>

/* A document; its last line ends. */
void yaml_print(json_t *value, FILE *to);
