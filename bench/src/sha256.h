/* SHA-256 (FIPS 180-4) with the processor's own instructions where it has them, else libsodium's.
 *
 * libsodium's is portable C, 150 µs for a body of 34 KB: a node that hashes with it would be what a benchmark measures.
 * A state may be copied; `sha256_end` works on a copy, so that a running digest can be read again and again.
 */
#ifndef BENCH_SHA256_H
#define BENCH_SHA256_H

#include <sodium.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#define BENCH_SHA_NI 1
#endif

typedef struct {
    crypto_hash_sha256_state portable;
    uint32_t h[8];
    uint64_t total;
    unsigned char block[64];
    size_t held;
} sha256;

static int sha256_fast;

#ifdef BENCH_SHA_NI
static const uint32_t sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* The instructions keep the eight words as ABEF and CDGH; each takes two rounds. w[] is the schedule, four words each. */
__attribute__((target("sha,sse4.1,ssse3"))) static void sha256_blocks(uint32_t h[8], const unsigned char *data, size_t n) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)h), 0xb1);        /* CDAB */
    __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(h + 4)), 0x1b); /* EFGH */
    __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0);
    for (; n; n--, data += 64) {
        __m128i abef_before = abef, cdgh_before = cdgh, w[4];
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), swap);
        for (int i = 0; i < 16; i++) {
            if (i >= 4) { /* W[t] from W[t-16], W[t-15], W[t-7] and W[t-2], four at a time */
                __m128i next = _mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]);
                next = _mm_add_epi32(next, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
                w[i & 3] = _mm_sha256msg2_epu32(next, w[(i + 3) & 3]);
            }
            __m128i words = _mm_add_epi32(w[i & 3], _mm_loadu_si128((const __m128i *)(sha256_k + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, words);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(words, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    low = _mm_shuffle_epi32(abef, 0x1b);  /* FEBA */
    high = _mm_shuffle_epi32(cdgh, 0xb1); /* DCHG */
    _mm_storeu_si128((__m128i *)h, _mm_blend_epi16(low, high, 0xf0));
    _mm_storeu_si128((__m128i *)(h + 4), _mm_alignr_epi8(high, low, 8));
}
#endif

/* Once, before anything is hashed. */
static void sha256_choose(void) {
#ifdef BENCH_SHA_NI
    unsigned a, b, c, d;
    sha256_fast = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
#endif
}

static void sha256_begin(sha256 *s) {
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, initial, sizeof initial);
    s->total = s->held = 0;
    crypto_hash_sha256_init(&s->portable);
}

static void sha256_add(sha256 *s, const void *data, size_t len) {
#ifdef BENCH_SHA_NI
    if (sha256_fast) {
        const unsigned char *from = data;
        s->total += len;
        if (s->held) {
            size_t take = 64 - s->held < len ? 64 - s->held : len;
            memcpy(s->block + s->held, from, take);
            s->held += take, from += take, len -= take;
            if (s->held < 64) return;
            sha256_blocks(s->h, s->block, 1);
        }
        sha256_blocks(s->h, from, len / 64);
        s->held = len % 64;
        memcpy(s->block, from + len - s->held, s->held);
        return;
    }
#endif
    crypto_hash_sha256_update(&s->portable, data, len);
}

static void sha256_end(const sha256 *running, unsigned char digest[32]) {
    sha256 s = *running;
#ifdef BENCH_SHA_NI
    if (sha256_fast) {
        unsigned char tail[128] = {0};
        size_t n = s.held < 56 ? 64 : 128;
        memcpy(tail, s.block, s.held);
        tail[s.held] = 0x80;
        for (int i = 0; i < 8; i++) tail[n - 1 - (size_t)i] = (unsigned char)(s.total * 8 >> 8 * i);
        sha256_blocks(s.h, tail, n / 64);
        for (int i = 0; i < 32; i++) digest[i] = (unsigned char)(s.h[i / 4] >> (24 - 8 * (i % 4)));
        return;
    }
#endif
    crypto_hash_sha256_final(&s.portable, digest);
}

#endif
