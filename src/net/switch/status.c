/* SPDX-License-Identifier: Apache-2.0 */
#include "net/switch/internal.h"

static json_t *refused_json(const struct port_counters *c)
{
	json_t *o = json_object();

	for (int v = VERDICT_OK + 1; v < VERDICTS; v++)
		if (c->refused[v])
			json_object_set_new(
			    o, verdict_name((enum verdict)v),
			    json_integer((json_int_t)c->refused[v]));
	return o;
}

static json_t *port_json(const struct port *p)
{
	const struct port_counters *c = &p->counters;
	char mac[18];
	json_t *o = json_pack(
	    "{s:s, s:i, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "machine",
	    p->machine, "nic", (int)p->nic, "address", p->address,
	    "sent_frames", (json_int_t)c->sent_frames, "sent_bytes",
	    (json_int_t)c->sent_bytes, "received_frames",
	    (json_int_t)c->received_frames, "received_bytes",
	    (json_int_t)c->received_bytes, "dropped", (json_int_t)c->dropped,
	    "queued", (json_int_t)(p->tail - p->head), "refused",
	    refused_json(c));

	if (p->kind == PORT_MACHINE) {
		json_object_set_new(o, "mac",
		                    json_string(mac_format(p->guard.mac, mac)));
		json_object_set_new(o, "trusted", json_boolean(p->trusted));
	}
	return o;
}

json_t *switch_status(const struct switch_ *sw)
{
	json_t *ports = json_array();

	for (unsigned i = 0; i < sw->port_count; i++)
		if (sw->ports[i] && sw->ports[i] != sw->uplink)
			json_array_append_new(ports, port_json(sw->ports[i]));
	return json_pack(
	    "{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:o}", "ports", ports,
	    "uplink", sw->uplink ? port_json(sw->uplink) : json_null(),
	    "leases", leases_json(&sw->leases), "cards",
	    (json_int_t)table_count(sw->table), "flooded",
	    (json_int_t)sw->flooded, "dns_questions",
	    (json_int_t)sw->service.questions, "dns_forwarded",
	    (json_int_t)sw->service.forwarded, "dhcp_answers",
	    (json_int_t)sw->service.dhcp, "captures", capture_json(sw));
}

json_t *switch_leases(const struct switch_ *sw)
{
	return leases_json(&sw->leases);
}

void switch_load_leases(struct switch_ *sw, json_t *leases)
{
	if (sw->has_service)
		leases_load(&sw->leases, leases);
}
