/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backup.h - verbs of atoll backup that have a file of their own.
 */
#pragma once

int backup_schedule(int argc, char **argv);
