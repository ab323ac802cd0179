/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/claim.h"

#include <errno.h>
#include <jansson.h>
#include <time.h>

#include "base/error.h"
#include "base/loop.h"
#include "cli/saved.h"
#include "control/control.h"

enum { PATIENCE_MS = 10000, LOOK_MS = 10 };

static int ask(int sock, int disk, struct error *err)
{
	json_t *message = json_pack("{s:s}", "op", "disk-claim");
	json_t *answer = NULL;
	int fds[CONTROL_FDS_MAX], rc;
	size_t count = 0;

	if (disk >= 0)
		json_object_set_new(message, "disk", json_integer(disk));
	rc = saved_request(sock, message, NULL, 0, &answer, fds, &count, err);
	if (rc == 0)
		json_decref(answer);
	return rc;
}

int claim_disks(int sock, int disk, struct error *err)
{
	const struct timespec wait = { .tv_nsec = LOOK_MS * 1000000 };
	u64 until = loop_now_ns() + PATIENCE_MS * NSEC_PER_MSEC;
	int rc;

	while ((rc = ask(sock, disk, err)) == -EAGAIN && loop_now_ns() < until)
		nanosleep(&wait, NULL);
	if (rc == -EAGAIN)
		rc = err->code = -EBUSY;
	return rc;
}
