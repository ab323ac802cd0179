/* SPDX-License-Identifier: Apache-2.0 */
/* Integer work as ordinary programs do it. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "bench.h"

/* ---- lists, matrices, a state machine and a CRC, as CoreMark mixes ---- */

struct node {
	struct node *next;
	int16_t key, value;
};

static uint16_t crc16(uint16_t crc, uint16_t v)
{
	for (int i = 0; i < 16; i++) {
		uint16_t bit = (uint16_t)((crc ^ v) & 1);

		crc >>= 1;
		v >>= 1;
		if (bit)
			crc ^= 0xa001;
	}
	return crc;
}

static struct node *merge(struct node *a, struct node *b)
{
	struct node head, *tail = &head;

	while (a && b) {
		struct node **least = a->key <= b->key ? &a : &b;

		tail->next = *least;
		tail = *least;
		*least = (*least)->next;
	}
	tail->next = a ? a : b;
	return head.next;
}

static struct node *sort_list(struct node *list)
{
	struct node *slow = list, *fast = list ? list->next : NULL, *half;

	if (!list || !list->next)
		return list;
	while (fast && fast->next) {
		slow = slow->next;
		fast = fast->next->next;
	}
	half = slow->next;
	slow->next = NULL;
	return merge(sort_list(list), sort_list(half));
}

static uint16_t numbers(const char *s)
{
	unsigned state = 0, counts[6] = { 0 };

	for (; *s; s++) {
		switch (state) {
		case 0:
			state = *s == '-' || *s == '+'   ? 1
			        : *s >= '0' && *s <= '9' ? 2
			        : *s == '.'              ? 3
			                                 : 5;
			break;
		case 1:
		case 2:
			state = *s >= '0' && *s <= '9' ? 2
			        : *s == '.'            ? 3
			        : *s == ','            ? 0
			                               : 5;
			break;
		case 3:
			state = *s >= '0' && *s <= '9'   ? 3
			        : *s == 'e' || *s == 'E' ? 4
			        : *s == ','              ? 0
			                                 : 5;
			break;
		case 4:
			state = *s == ',' ? 0 : 4;
			break;
		default:
			state = *s == ',' ? 0 : 5;
		}
		counts[state]++;
	}
	return (uint16_t)(counts[0] + 3 * counts[2] + 5 * counts[3] +
	                  7 * counts[5]);
}

uint64_t core_mix(void)
{
	enum { NODES = 100, SIDE = 12 };
	static const char text[] = "5012,-74.5,.123e4,+9,T0.3e-1F,0.5,1x,77,";
	static struct node node[NODES];
	static int16_t a[SIDE][SIDE], b[SIDE][SIDE];
	uint16_t crc = 0;

	for (int round = 0; round < 60000; round++) {
		struct node *list = NULL;

		for (int i = 0; i < NODES; i++) {
			node[i].key = (int16_t)(i * 7919 ^ round);
			node[i].value = (int16_t)i;
			node[i].next = list;
			list = &node[i];
		}
		for (list = sort_list(list); list; list = list->next)
			crc = crc16(crc, (uint16_t)list->value);
		for (int i = 0; i < SIDE; i++)
			for (int j = 0; j < SIDE; j++) {
				a[i][j] = (int16_t)(i * j + round);
				b[i][j] = (int16_t)(i - j);
			}
		for (int i = 0; i < SIDE; i++)
			for (int j = 0; j < SIDE; j++) {
				int32_t sum = 0;

				for (int k = 0; k < SIDE; k++)
					sum += a[i][k] * b[k][j];
				crc = crc16(crc, (uint16_t)(sum >> 3));
			}
		crc = crc16(crc, numbers(text));
	}
	return crc;
}

/* ---- quicksort ---- */

static void quicksort(uint32_t *v, long low, long high)
{
	while (low < high) {
		uint32_t pivot = v[(low + high) / 2];
		long i = low, j = high;

		while (i <= j) {
			while (v[i] < pivot)
				i++;
			while (v[j] > pivot)
				j--;
			if (i <= j) {
				uint32_t t = v[i];

				v[i++] = v[j];
				v[j--] = t;
			}
		}
		if (j - low < high - i) {
			quicksort(v, low, j);
			low = i;
		} else {
			quicksort(v, i, high);
			high = j;
		}
	}
}

static uint64_t sorting(void)
{
	enum { N = 1000000 };
	uint32_t *v = malloc(N * sizeof(*v));
	uint64_t seed = 88172645463325252, sum = 0;

	for (int round = 0; round < 6; round++) {
		for (int i = 0; i < N; i++)
			v[i] = (uint32_t)next_random(&seed);
		quicksort(v, 0, N - 1);
		for (int i = 0; i < N; i += 1000)
			sum = sum * 31 + v[i];
	}
	free(v);
	return sum;
}

/* ---- calls ---- */

static __attribute__((noinline)) uint64_t fib(unsigned n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t calls(void)
{
	return fib(41);
}

/* ---- an interpreter's loop ---- */

static uint64_t interpreter(void)
{
	static const uint8_t program[] = { 0, 1, 2, 3, 1, 4, 2, 5, 6, 1,
		                           3, 0, 2, 6, 4, 5, 1, 2, 7 };
	uint64_t acc = 1, x = 3, steps = 0;

	for (unsigned pc = 0; steps < 120000000; steps++) {
		switch (program[pc++]) {
		case 0:
			acc += x;
			break;
		case 1:
			x = x * 5 + 1;
			break;
		case 2:
			acc ^= x >> 3;
			break;
		case 3:
			acc = acc << 1 | acc >> 63;
			break;
		case 4:
			x -= acc & 0xff;
			break;
		case 5:
			if (acc & 1)
				x++;
			break;
		case 6:
			acc = ~acc;
			break;
		default:
			pc = 0;
		}
	}
	return acc ^ x;
}

/* ---- checksums ---- */

static uint64_t crc_table(void)
{
	static uint32_t table[256];
	static uint8_t buf[1 << 16];
	uint32_t crc = ~0u;

	for (unsigned i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
		table[i] = c;
	}
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 13 + (i >> 8));
	for (int round = 0; round < 3000; round++)
		for (unsigned i = 0; i < sizeof(buf); i++)
			crc = table[(crc ^ buf[i]) & 0xff] ^ crc >> 8;
	return crc;
}

static uint32_t ror(uint32_t v, int n)
{
	return v >> n | v << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *p, const uint32_t k[64])
{
	uint32_t w[64], s[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
		       (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] =
		    w[i - 16] + w[i - 7] +
		    (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
		    (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, h, sizeof(s));
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = s[7] +
		              (ror(s[4], 6) ^ ror(s[4], 11) ^ ror(s[4], 25)) +
		              ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t t2 = (ror(s[0], 2) ^ ror(s[0], 13) ^ ror(s[0], 22)) +
		              ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof(s[0]));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

static uint64_t sha256(void)
{
	static uint8_t buf[1 << 16];
	uint32_t h[8], k[64];
	uint64_t seed = 0x6a09e667f3bcc908;

	/* Constants of our own: the work is what counts. */
	for (int i = 0; i < 64; i++)
		k[i] = (uint32_t)next_random(&seed);
	for (int i = 0; i < 8; i++)
		h[i] = (uint32_t)next_random(&seed);
	for (int round = 0; round < 1200; round++)
		for (size_t i = 0; i < sizeof(buf); i += 64)
			sha_block(h, buf + i, k);
	return (uint64_t)h[0] << 32 | h[7];
}

static uint64_t gzip(void)
{
	enum { N = 1 << 20 };
	uint8_t *in = malloc(N), *out = malloc(2 * N);
	uint64_t seed = 42, sum = 0;

	for (int i = 0; i < N; i++)
		in[i] = i > 64 && next_random(&seed) % 4
		            ? in[i - 1 - (int)(seed % 60)]
		            : (uint8_t)('a' + seed % 26);
	for (int round = 0; round < 12; round++) {
		uLongf size = 2 * N;

		compress2(out, &size, in, N, 6);
		sum = sum * 31 + size + out[size / 2];
	}
	free(in);
	free(out);
	return sum;
}

const struct bench benches_integer[] = {
	{ "core-mix", "integer", core_mix },
	{ "quicksort", "integer", sorting },
	{ "calls", "integer", calls },
	{ "interpreter", "integer", interpreter },
	{ "crc-table", "integer", crc_table },
	{ "sha256", "integer", sha256 },
	{ "gzip", "integer", gzip },
	{ 0 },
};
