/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "daemon/api.h"
#include "daemon/harden/harden.h"
#include "daemon/limits/limits.h"
#include "daemon/store.h"

/* ---- who may, and what is written down ---- */

static void check_listener(struct harden *h, struct daemon *d)
{
	static const struct harden_check check = {
		"api-network", HARDEN_PLATFORM,
		"The API is not open to every network",
		"--listen ADDRESS:PORT with the address of the management "
		"network"
	};
	static const struct harden_check tls = { "api-tls", HARDEN_CIS,
		                                 "The API is served over TLS",
		                                 "" };
	const char *at = d->listen;

	if (!at) {
		harden_add(h, &check, HARDEN_PASS,
		           "it listens on a socket of this host alone");
		harden_add(h, &tls, HARDEN_NOT_APPLICABLE,
		           "it does not listen on a network");
		return;
	}
	harden_add(h, &check,
	           at[0] == ':' || strncmp(at, "0.0.0.0:", 8) == 0 ||
	                   strncmp(at, "[::]:", 5) == 0
	               ? HARDEN_FAIL
	               : HARDEN_PASS,
	           "it listens on %s", at);
	harden_add(h, &tls, HARDEN_PASS, "TLS 1.3 only, with a token");
}

static int take_name(void *ctx, struct row *row)
{
	harden_name(ctx, row_text(row, 0));
	return 0;
}

static void check_tokens(struct harden *h, struct daemon *d)
{
	static const struct harden_check expiry = {
		"token-expiry", HARDEN_CIS, "Tokens end by themselves",
		"atoll token create --expires, and delete those without"
	};
	static const struct harden_check few = {
		"administrators", HARDEN_PLATFORM,
		"Few tokens are an administrator's",
		"give programs a role that fits: operator, user, auditor"
	};
	struct harden_names endless = { "" }, admins = { "" };

	store_query(d->store, take_name, &endless, NULL,
	            "SELECT name FROM tokens WHERE coalesce(expires, 0) = 0"
	            " ORDER BY name",
	            "");
	store_query(d->store, take_name, &admins, NULL,
	            "SELECT name FROM tokens WHERE role = 'administrator'"
	            " ORDER BY name",
	            "");
	harden_verdict(h, &expiry, &endless, "each that there is has an end");
	harden_add(h, &few, admins.count > 3 ? HARDEN_FAIL : HARDEN_PASS,
	           "%u:%s", admins.count, admins.count ? admins.text : " none");
}

static void check_audit(struct harden *h, struct daemon *d)
{
	static const struct harden_check check = {
		"audit-log", HARDEN_CIS, "The log of changes is whole",
		"atoll audit verify; keep a copy of the registry as evidence"
	};
	char hash[80];
	s64 records, broken = audit_verify(d, &records, hash, sizeof(hash));

	if (broken)
		harden_add(h, &check, HARDEN_FAIL,
		           "its chain is broken at record %" PRId64, broken);
	else
		harden_add(h, &check, HARDEN_PASS,
		           "%" PRId64 " records in an unbroken chain", records);
}

static void check_alarms(struct harden *h, struct daemon *d)
{
	static const struct harden_check check = {
		"alarms", HARDEN_PLATFORM, "Machines are watched from outside",
		"atoll alarm create"
	};

	harden_if(h, &check, d->alarms != NULL, "there are alarms",
	          "there is no alarm");
}

/* ---- what machines may have ---- */

static void check_overcommit(struct harden *h, struct daemon *d)
{
	static const struct harden_check check = {
		"overcommit", HARDEN_PLATFORM,
		"No more memory is promised than there is",
		"atoll host policy --overcommit 100"
	};
	json_t *limits = limits_json(d);

	harden_add(
	    h, &check,
	    json_integer_value(json_object_get(limits, "overcommit_percent")) >
		    100
		? HARDEN_FAIL
		: HARDEN_PASS,
	    "machines may have %" JSON_INTEGER_FORMAT
	    " %% of the host's, less what is kept for it",
	    json_integer_value(json_object_get(limits, "overcommit_percent")));
	json_decref(limits);
}

static bool has_limits(json_t *nic)
{
	return json_integer_value(json_object_get(
		   json_object_get(nic, "limits"), "send_bytes_per_s")) > 0;
}

/* Of all machines: what is wrong with their cards and devices. */
struct findings {
	struct harden_names trusted, unlimited, devices, owners, sharing;
};

static void look_at(struct findings *f, struct vm *vm)
{
	json_t *nics = json_object_get(vm->spec, "nics"), *nic;
	bool trusted = false, unlimited = false;
	size_t i;

	json_array_foreach(nics, i, nic)
	{
		trusted =
		    trusted || json_is_true(json_object_get(nic, "trusted"));
		unlimited = unlimited || !has_limits(nic);
	}
	if (trusted)
		harden_name(&f->trusted, vm->name);
	if (unlimited)
		harden_name(&f->unlimited, vm->name);
	if (json_array_size(json_object_get(vm->spec, "devices")))
		harden_name(&f->devices, vm->name);
	if (json_is_true(json_object_get(vm->spec, "share_memory")))
		harden_name(&f->sharing, vm->name);
	if (json_string_length(json_object_get(vm->spec, "owner")) == 0)
		harden_name(&f->owners, vm->name);
}

static void check_machines(struct harden *h, struct daemon *d)
{
	static const struct harden_check spoofing = {
		"anti-spoofing", HARDEN_CIS,
		"Cards send under their own addresses only",
		"leave trusted out of the card's definition"
	};
	static const struct harden_check rates = {
		"network-limits", HARDEN_PLATFORM,
		"No card may flood a network",
		"give cards limits: send_bytes_per_s"
	};
	static const struct harden_check devices = {
		"devices", HARDEN_PLATFORM, "Machines have no device for tests",
		"take the devices out of their definitions"
	};
	static const struct harden_check sharing = {
		"memory-sharing", HARDEN_CIS,
		"No machine may share pages with others",
		"atoll vm set NAME --share-memory off"
	};
	static const struct harden_check owners = {
		"owners", HARDEN_PLATFORM, "Each machine is somebody's",
		"atoll vm set NAME --owner"
	};
	struct findings f = { 0 };

	for (struct vm *vm = d->vms; vm; vm = vm->next)
		if (!vm->deleted)
			look_at(&f, vm);
	harden_verdict(h, &spoofing, &f.trusted, "no card is trusted");
	harden_verdict(h, &rates, &f.unlimited, "each has a limit");
	harden_verdict(h, &devices, &f.devices, "none has one");
	harden_verdict(h, &owners, &f.owners, "each has an owner");
	harden_verdict(h, &sharing, &f.sharing, "none does");
}

/* What the checklist asks for and Atoll does not do. */
static void check_absent(struct harden *h)
{
	static const struct absent {
		struct harden_check check;
		const char *why;
	} list[] = {
		{ { "passthrough", HARDEN_PLATFORM,
		    "Devices are passed through behind an IOMMU", "" },
		  "no device is ever passed through" },
		{ { "migration", HARDEN_PLATFORM,
		    "Migration is encrypted and a right of its own", "" },
		  "machines do not migrate between hosts" },
		{ { "image-signatures", HARDEN_PLATFORM, "Images are signed",
		    "" },
		  "images carry checksums, which are verified, and no "
		  "signatures" },
		{ { "vlans", HARDEN_NETWORK, "VLANs are listed on trunks", "" },
		  "networks have one VLAN: use a bridge of the host for each" },
		{ { "card-firewall", HARDEN_NETWORK,
		    "A firewall of each card follows it", "" },
		  "networks are apart from each other; within one there is "
		  "no filter but that of addresses" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		harden_add(h, &list[i].check, HARDEN_NOT_APPLICABLE, "%s",
		           list[i].why);
}

void harden_service(struct harden *h, struct daemon *d)
{
	check_listener(h, d);
	check_tokens(h, d);
	check_audit(h, d);
	check_alarms(h, d);
	check_overcommit(h, d);
	check_machines(h, d);
	check_absent(h);
}
