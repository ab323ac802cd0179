/* SPDX-License-Identifier: Apache-2.0 */
/*
 * project.h - projects, quotas, users and roles: whose things are, and who
 * may do what with them.
 */
#pragma once

int command_project(int argc, char **argv);
int command_quota(int argc, char **argv);
int command_user(int argc, char **argv);
int command_role(int argc, char **argv);
/* atoll image set: whose an image is. */
int image_set(int argc, char **argv);
