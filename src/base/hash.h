/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes: CRC-32C for damage in files, SHA-256 (FIPS 180-4) for identity. */
#ifndef TDN_BASE_HASH_H
#define TDN_BASE_HASH_H
#include <stddef.h>
#include <stdint.h>
uint32_t tdn_crc32c(uint32_t crc, const void *data, size_t size);
typedef struct tdn_sha256 {
    uint32_t state[8];
    uint64_t n_bytes;
    uint8_t block[64];
} tdn_sha256;
void tdn_sha256_begin(tdn_sha256 *s);
void tdn_sha256_add(tdn_sha256 *s, const void *data, size_t size);
void tdn_sha256_end(tdn_sha256 *s, uint8_t digest[32]);
void tdn_sha256_text(const uint8_t digest[32], char text[65]); /* in hex */
#endif
