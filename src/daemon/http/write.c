/* SPDX-License-Identifier: Apache-2.0 */
/*
 * write - an answer, whole or in pieces.
 */
#include "daemon/http/internal.h"

#include <stdio.h>
#include <string.h>

enum { HEAD_MAX = 4096, PIECE = 16384 };

static bool add_header(struct lws *wsi, const char *line, size_t size, u8 **p,
                       u8 *end)
{
	const char *colon = memchr(line, ':', size);
	char name[80];

	if (!colon || (size_t)(colon - line) + 2 > sizeof(name))
		return true;
	snprintf(name, sizeof(name), "%.*s:", (int)(colon - line), line);
	colon++;
	while (*colon == ' ')
		colon++;
	return !lws_add_http_header_by_name(
	    wsi, (const u8 *)name, (const u8 *)colon,
	    (int)(size - (size_t)(colon - line)), p, end);
}

static bool add_headers(struct exchange *x, struct lws *wsi, u8 **p, u8 *end)
{
	static const char sniff[] = "x-content-type-options: nosniff";
	static const char cache[] = "cache-control: no-store";
	static const char chunked[] = "transfer-encoding: chunked";
	const char *line = x->headers, *next;
	bool ok = add_header(wsi, sniff, strlen(sniff), p, end) &&
	          add_header(wsi, cache, strlen(cache), p, end);

	while (ok && line && *line) {
		next = strchrnul(line, '\n');
		ok = add_header(wsi, line, (size_t)(next - line), p, end);
		line = *next ? next + 1 : next;
	}
	if (ok && !x->whole)
		ok = add_header(wsi, chunked, strlen(chunked), p, end);
	return ok;
}

static int write_head(struct exchange *x, struct lws *wsi)
{
	u8 buffer[LWS_PRE + HEAD_MAX], *start = buffer + LWS_PRE, *p = start;
	u8 *end = buffer + sizeof(buffer) - 1;

	if (lws_add_http_header_status(wsi, (unsigned)x->status, &p, end))
		return -1;
	if (x->type[0] &&
	    lws_add_http_header_by_token(wsi, WSI_TOKEN_HTTP_CONTENT_TYPE,
	                                 (const u8 *)x->type,
	                                 (int)strlen(x->type), &p, end))
		return -1;
	if (x->whole && x->status != 204 &&
	    lws_add_http_header_content_length(wsi, x->whole_size, &p, end))
		return -1;
	if (!add_headers(x, wsi, &p, end) ||
	    lws_finalize_http_header(wsi, &p, end))
		return -1;
	x->head_sent = true;
	return lws_write(wsi, start, (size_t)(p - start),
	                 LWS_WRITE_HTTP_HEADERS) < 0
	           ? -1
	           : 0;
}

static int write_piece(struct exchange *x, struct lws *wsi)
{
	u8 buffer[LWS_PRE + PIECE + 32], *p = buffer + LWS_PRE;
	size_t n = MIN(x->out_used - x->out_at, (size_t)PIECE);

	if (!x->whole)
		p += sprintf((char *)p, "%zx\r\n", n);
	memcpy(p, x->out + x->out_at, n);
	p += n;
	x->out_at += n;
	if (!x->whole) {
		*p++ = '\r';
		*p++ = '\n';
	}
	if (x->out_at == x->out_used)
		x->out_at = x->out_used = 0;
	n = (size_t)(p - buffer) - LWS_PRE;
	return lws_write(wsi, buffer + LWS_PRE, n, LWS_WRITE_HTTP) < 0 ? -1 : 0;
}

static int write_last(struct exchange *x, struct lws *wsi)
{
	u8 buffer[LWS_PRE + 8];

	x->last_sent = true;
	if (x->whole)
		return 0;
	memcpy(buffer + LWS_PRE, "0\r\n\r\n", 5);
	return lws_write(wsi, buffer + LWS_PRE, 5, LWS_WRITE_HTTP) < 0 ? -1 : 0;
}

static int finish(struct session *s, struct lws *wsi)
{
	bool close_after = s->exchange->close_after;

	exchange_let_go(s, true);
	lws_set_timer_usecs(wsi, LWS_SET_TIMER_USEC_CANCEL);
	if (close_after)
		return -1;
	lws_rx_flow_control(wsi, 1);
	return lws_http_transaction_completed(wsi) ? -1 : 0;
}

bool exchange_to_write(const struct exchange *x)
{
	return (x->begun && !x->head_sent) || x->out_at < x->out_used ||
	       (x->core_done && !x->last_sent);
}

int exchange_writeable(struct session *s, struct lws *wsi)
{
	struct exchange *x = s->exchange;
	struct http *h;
	bool done, more;
	int rc = 0;

	if (!x || !x->dispatched)
		return 0;
	h = x->http;
	pthread_mutex_lock(&h->lock);
	if (x->begun && !x->head_sent)
		rc = write_head(x, wsi);
	else if (x->head_sent && x->out_at < x->out_used)
		rc = write_piece(x, wsi);
	else if (x->head_sent && x->core_done && !x->last_sent)
		rc = write_last(x, wsi);
	/* With a whole answer the peer has all that it waits for. */
	if (x->whole && x->core_done && x->head_sent &&
	    x->out_at == x->out_used)
		x->last_sent = true;
	done = x->last_sent && !lws_partial_buffered(wsi);
	more = exchange_to_write(x) || lws_partial_buffered(wsi);
	pthread_mutex_unlock(&h->lock);
	if (rc < 0)
		return -1;
	if (done)
		return finish(s, wsi);
	if (more)
		exchange_want_writeable(wsi);
	else
		exchange_hold_input(wsi);
	return 0;
}
