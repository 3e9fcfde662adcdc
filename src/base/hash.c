/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRC-32C (Castagnoli, reflected polynomial 0x82f63b78) and SHA-256 (FIPS 180-4).
 *
 * The CRC is on the way to the first result, since loading a plan checks every byte of it: x86-64
 * has an instruction for it, and elsewhere eight bytes go through eight tables at once. The tables
 * live on the stack of the call: they cost about 5 us, which only long blocks pay, and there is no
 * global state to initialise.
 */
#include "base/hash.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

/* ---- CRC-32C --------------------------------------------------------------------------------- */

#define POLYNOMIAL 0x82f63b78u

static uint32_t crc_byte(uint32_t crc, uint8_t byte)
{
    crc ^= byte;
    for (int bit = 0; bit < 8; bit++)
        crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
    return crc;
}

/* table[k][b] is the remainder of byte b followed by k zero bytes. */
static void make_tables(uint32_t table[8][256])
{
    for (unsigned b = 0; b < 256; b++)
        table[0][b] = crc_byte(0, (uint8_t)b);
    for (int k = 1; k < 8; k++)
        for (unsigned b = 0; b < 256; b++)
            table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 255];
}

static uint32_t crc_tables(uint32_t crc, const uint8_t *p, size_t n_words)
{
    uint32_t table[8][256];
    make_tables(table);
    for (; n_words > 0; n_words--, p += 8) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + 4, 4);
        low ^= crc;
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^
              table[4][low >> 24] ^ table[3][high & 255] ^ table[2][high >> 8 & 255] ^
              table[1][high >> 16 & 255] ^ table[0][high >> 24];
    }
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_instruction(uint32_t crc, const uint8_t *p,
                                                                  size_t n_words)
{
    uint64_t wide = crc;
    for (; n_words > 0; n_words--, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    return (uint32_t)wide;
}

static uint32_t crc_words(uint32_t crc, const uint8_t *p, size_t n_words)
{
    return __builtin_cpu_supports("sse4.2") ? crc_instruction(crc, p, n_words)
                                            : crc_tables(crc, p, n_words);
}
#else
static uint32_t crc_words(uint32_t crc, const uint8_t *p, size_t n_words)
{
    return crc_tables(crc, p, n_words);
}
#endif

uint32_t tdn_crc32c(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *p = data;
    crc = ~crc;
    if (size >= 512) {
        const size_t n_words = size / 8;
        crc = crc_words(crc, p, n_words);
        p += n_words * 8;
        size %= 8;
    }
    while (size-- > 0)
        crc = crc_byte(crc, *p++);
    return ~crc;
}

/* ---- SHA-256 --------------------------------------------------------------------------------- */

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static uint32_t load_big(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* One round, names as in FIPS 180-4, section 6.2.2. Instead of moving eight variables on, the
 * caller turns the names.
 */
#define ROUND(a, b, c, d, e, f, g, h, t)                                                           \
    do {                                                                                           \
        const uint32_t sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);                        \
        const uint32_t t1 = (h) + sum1 + (((e) & (f)) ^ (~(e) & (g))) + round_constants[t] + w[t]; \
        const uint32_t sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);                        \
        (d) += t1;                                                                                 \
        (h) = t1 + sum0 + (((a) & (b)) ^ ((a) & (c)) ^ ((b) & (c)));                               \
    } while (0)

static void add_block(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64];
    for (int t = 0; t < 16; t++)
        w[t] = load_big(block + 4 * t);
    for (int t = 16; t < 64; t++) {
        const uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        const uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; t += 8) {
        ROUND(a, b, c, d, e, f, g, h, t);
        ROUND(h, a, b, c, d, e, f, g, t + 1);
        ROUND(g, h, a, b, c, d, e, f, t + 2);
        ROUND(f, g, h, a, b, c, d, e, t + 3);
        ROUND(e, f, g, h, a, b, c, d, t + 4);
        ROUND(d, e, f, g, h, a, b, c, t + 5);
        ROUND(c, d, e, f, g, h, a, b, t + 6);
        ROUND(b, c, d, e, f, g, h, a, t + 7);
    }
    const uint32_t v[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

static void add_blocks_plain(uint32_t state[8], const uint8_t *p, size_t n)
{
    for (; n > 0; n--, p += 64)
        add_block(state, p);
}

#if defined(__x86_64__)
/* The SHA extensions (Intel, "Intel SHA Extensions", 2013): two rounds an instruction, state as
 * ABEF and CDGH. A model's weights are hashed at each build, and this is eight times the speed. */
__attribute__((target("sha,sse4.1"))) static void add_blocks_sha(uint32_t state[8],
                                                                 const uint8_t *p, size_t n)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const int *s = (const int *)state; /* a to h */
    __m128i abef = _mm_set_epi32(s[0], s[1], s[4], s[5]),
            cdgh = _mm_set_epi32(s[2], s[3], s[6], s[7]);
    for (; n > 0; n--, p += 64) {
        const __m128i abef0 = abef, cdgh0 = cdgh;
        __m128i w[4];
        for (int i = 0; i < 16; i++) { /* four rounds each */
            if (i < 4) {
                w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
            } else {
                __m128i next = _mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]);
                next = _mm_add_epi32(next, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
                w[i & 3] = _mm_sha256msg2_epu32(next, w[(i + 3) & 3]);
            }
            const __m128i k = _mm_loadu_si128((const __m128i *)(round_constants + 4 * i));
            const __m128i wk = _mm_add_epi32(w[i & 3], k);
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef0);
        cdgh = _mm_add_epi32(cdgh, cdgh0);
    }
    uint32_t x[4], y[4]; /* F E B A and H G D C, low lane first */
    _mm_storeu_si128((__m128i *)x, abef);
    _mm_storeu_si128((__m128i *)y, cdgh);
    const uint32_t out[8] = {x[3], x[2], y[3], y[2], x[1], x[0], y[1], y[0]};
    memcpy(state, out, sizeof out);
}

static int has_sha(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1) &&
           __builtin_cpu_supports("sse4.1");
}

static void add_blocks(uint32_t state[8], const uint8_t *p, size_t n)
{
    if (n > 4 && has_sha())
        add_blocks_sha(state, p, n);
    else
        add_blocks_plain(state, p, n);
}
#else
static void add_blocks(uint32_t state[8], const uint8_t *p, size_t n)
{
    add_blocks_plain(state, p, n);
}
#endif

void tdn_sha256_begin(tdn_sha256 *s)
{
    /* The same of the square roots of the first 8 primes. */
    *s = (tdn_sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                                0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void tdn_sha256_add(tdn_sha256 *s, const void *data, size_t size)
{
    const uint8_t *p = data;
    size_t held = s->n_bytes % 64;
    s->n_bytes += size;
    while (size > 0) {
        if (held == 0 && size >= 64) {
            const size_t n_blocks = size / 64;
            add_blocks(s->state, p, n_blocks);
            p += n_blocks * 64;
            size -= n_blocks * 64;
            continue;
        }
        const size_t n = size < 64 - held ? size : 64 - held;
        memcpy(s->block + held, p, n);
        p += n;
        size -= n;
        held += n;
        if (held == 64) {
            add_block(s->state, s->block);
            held = 0;
        }
    }
}

void tdn_sha256_end(tdn_sha256 *s, uint8_t digest[32])
{
    static const uint8_t padding[64] = {0x80};
    const uint64_t n_bits = s->n_bytes * 8;
    const size_t held = s->n_bytes % 64;
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(n_bits >> (56 - 8 * i));
    tdn_sha256_add(s, padding, held < 56 ? 56 - held : 120 - held);
    tdn_sha256_add(s, length, sizeof length);
    for (int i = 0; i < 32; i++)
        digest[i] = (uint8_t)(s->state[i / 4] >> (24 - 8 * (i % 4)));
}

void tdn_sha256_text(const uint8_t digest[32], char text[65])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 64; i++)
        text[i] = digits[digest[i / 2] >> (i % 2 ? 0 : 4) & 15];
    text[64] = 0;
}
