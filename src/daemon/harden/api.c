/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "daemon/api.h"
#include "daemon/harden/harden.h"

void api_host_audit(struct call *c)
{
	struct harden h = { .root =
		                open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) };

	if (h.root < 0) {
		call_fail_error(
		    c, error_set(&c->err, -errno, "/: %s", strerror(errno)));
		return;
	}
	harden_confined(&h, c->daemon);
	harden_service(&h, c->daemon);
	harden_users(&h, c->daemon);
	harden_kernel(&h);
	harden_system(&h);
	close(h.root);
	c->status = 200;
	c->reply = harden_json(&h);
}
