/* SPDX-License-Identifier: Apache-2.0 */
/*
 * routes - all that can be asked. api/openapi.yaml says the same in its own
 * words, and a test holds one against the other.
 */
#include "daemon/api.h"

#define VM "/v1/vms/{vm}"
#define NETWORK "/v1/networks/{network}"

const struct route routes[] = {
	{ "GET", "/v1", RIGHT_NONE, BODY_NONE, "", api_root },
	{ "GET", "/v1/host", RIGHT_READ, BODY_NONE, "", api_host },
	{ "GET", "/metrics", RIGHT_READ, BODY_NONE, "", api_metrics },

	{ "GET", "/v1/vms", RIGHT_READ, BODY_NONE, "state tag", api_vm_list },
	{ "POST", "/v1/vms", RIGHT_DEFINE, BODY_JSON, "", api_vm_create },
	{ "GET", VM, RIGHT_READ, BODY_NONE, "", api_vm_get },
	{ "PATCH", VM, RIGHT_DEFINE, BODY_JSON, "", api_vm_patch },
	{ "DELETE", VM, RIGHT_DEFINE, BODY_NONE, "force", api_vm_delete },
	{ "POST", VM "/start", RIGHT_OPERATE, BODY_NONE, "", api_vm_action },
	{ "POST", VM "/stop", RIGHT_OPERATE, BODY_MAYBE, "", api_vm_stop },
	{ "POST", VM "/restart", RIGHT_OPERATE, BODY_MAYBE, "", api_vm_stop },
	{ "POST", VM "/kill", RIGHT_OPERATE, BODY_NONE, "", api_vm_action },
	{ "POST", VM "/pause", RIGHT_OPERATE, BODY_NONE, "", api_vm_action },
	{ "POST", VM "/resume", RIGHT_OPERATE, BODY_NONE, "", api_vm_action },
	{ "POST", VM "/reset", RIGHT_OPERATE, BODY_NONE, "", api_vm_action },
	{ "POST", VM "/powerdown", RIGHT_OPERATE, BODY_NONE, "",
	  api_vm_action },
	{ "GET", VM "/status", RIGHT_READ, BODY_NONE, "", api_vm_status },
	{ "GET", VM "/log", RIGHT_READ, BODY_NONE, "", api_vm_log },
	{ "GET", VM "/console", RIGHT_OPERATE, BODY_NONE,
	  "offset tail limit follow", api_console_read },
	{ "POST", VM "/console", RIGHT_OPERATE, BODY_RAW, "", api_console_write,
	  .quiet = true },
	{ "POST", VM "/console/size", RIGHT_OPERATE, BODY_JSON, "",
	  api_console_size, .quiet = true },

	{ "GET", "/v1/networks", RIGHT_READ, BODY_NONE, "", api_network_list },
	{ "POST", "/v1/networks", RIGHT_DEFINE, BODY_JSON, "",
	  api_network_create },
	{ "GET", NETWORK, RIGHT_READ, BODY_NONE, "", api_network_get },
	{ "DELETE", NETWORK, RIGHT_DEFINE, BODY_NONE, "", api_network_delete },
	{ "GET", NETWORK "/status", RIGHT_READ, BODY_NONE, "",
	  api_network_status },
	{ "GET", NETWORK "/capture", RIGHT_HOST, BODY_NONE, "machine frames",
	  api_network_capture },

	{ "GET", "/v1/tasks", RIGHT_READ, BODY_NONE, "state vm limit before",
	  api_task_list },
	{ "GET", "/v1/tasks/{task}", RIGHT_READ, BODY_NONE, "wait",
	  api_task_get },
	{ "POST", "/v1/tasks/{task}/cancel", RIGHT_OPERATE, BODY_NONE, "",
	  api_task_cancel },
	{ "GET", "/v1/events", RIGHT_READ, BODY_NONE, "after limit",
	  api_event_list },

	{ "GET", "/v1/tokens", RIGHT_TOKENS, BODY_NONE, "", api_token_list },
	{ "POST", "/v1/tokens", RIGHT_TOKENS, BODY_JSON, "", api_token_create },
	{ "DELETE", "/v1/tokens/{token}", RIGHT_TOKENS, BODY_NONE, "",
	  api_token_delete },
	{ "GET", "/v1/audit", RIGHT_AUDIT, BODY_NONE, "after limit",
	  api_audit_list },
	{ "GET", "/v1/audit/verify", RIGHT_AUDIT, BODY_NONE, "",
	  api_audit_verify },
	{ 0 },
};
