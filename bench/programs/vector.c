/* SPDX-License-Identifier: Apache-2.0 */
/* Floating point and vectors. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "bench.h"

struct body {
	double x[3], v[3], mass;
};

static uint64_t bits(double d)
{
	uint64_t u;

	memcpy(&u, &d, sizeof(u));
	return u;
}

static uint64_t n_body(void)
{
	struct body b[5];

	for (int i = 0; i < 5; i++)
		b[i] = (struct body){ { i * 5.0, i * 3.0 - 2, 1.0 / (i + 1) },
			              { 0.1 * i, 0.3 - 0.05 * i, 0.01 },
			              i ? 0.01 * i : 39.0 };
	for (int step = 0; step < 4000000; step++) {
		for (int i = 0; i < 5; i++)
			for (int j = i + 1; j < 5; j++) {
				double d[3], r2 = 0, f;

				for (int k = 0; k < 3; k++) {
					d[k] = b[i].x[k] - b[j].x[k];
					r2 += d[k] * d[k];
				}
				f = 0.001 / (r2 * sqrt(r2));
				for (int k = 0; k < 3; k++) {
					b[i].v[k] -= d[k] * b[j].mass * f;
					b[j].v[k] += d[k] * b[i].mass * f;
				}
			}
		for (int i = 0; i < 5; i++)
			for (int k = 0; k < 3; k++)
				b[i].x[k] += 0.001 * b[i].v[k];
	}
	return bits(b[0].x[0] + b[4].x[2]);
}

static uint64_t matrix(void)
{
	enum { N = 300 };
	static double a[N][N], b[N][N], c[N][N];

	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = i - j * 0.5;
			b[i][j] = j - i * 0.25;
		}
	for (int round = 0; round < 25; round++)
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j++) {
				double sum = c[i][j] * 0.5;

				for (int k = 0; k < N; k++)
					sum += a[i][k] * b[k][j];
				c[i][j] = sum;
			}
	return bits(c[17][42]);
}

__attribute__((target("aes,sse2"))) static uint64_t aes(void)
{
	static __m128i buf[4096];
	__m128i key = _mm_set1_epi32(0x1234567), x;
	uint64_t out[2];

	for (int round = 0; round < 18000; round++)
		for (int i = 0; i < 4096; i++) {
			x = _mm_xor_si128(buf[i], key);
			for (int r = 0; r < 9; r++)
				x = _mm_aesenc_si128(x, key);
			buf[i] = _mm_aesenclast_si128(x, key);
		}
	_mm_storeu_si128((__m128i *)out, buf[77]);
	return out[0] ^ out[1];
}

__attribute__((target("avx2,fma"))) static uint64_t avx2(void)
{
	enum { N = 8192 };
	static float a[N], b[N] __attribute__((aligned(32)));
	__m256 sum = _mm256_setzero_ps();
	float out[8];

	for (int i = 0; i < N; i++) {
		a[i] = (float)(i % 17) * 0.25f;
		b[i] = (float)(i % 13) * 0.5f;
	}
	for (int round = 0; round < 400000; round++)
		for (int i = 0; i < N; i += 32)
			for (int k = 0; k < 32; k += 8)
				sum = _mm256_fmadd_ps(
				    _mm256_loadu_ps(a + i + k),
				    _mm256_loadu_ps(b + i + k), sum);
	_mm256_storeu_ps(out, sum);
	return (uint64_t)out[0];
}

const struct bench benches_vector[] = {
	{ "n-body", "vector", n_body },
	{ "matrix", "vector", matrix },
	{ "aes-ni", "vector", aes },
	{ "avx2", "vector", avx2 },
	{ 0 },
};
