/* C interface of the Rust crate in this folder: HTTP requests and checksums. Conventions as in tq_text.h.
 *
 * A request runs in a thread of its own and holds at most a few chunks that nobody has taken yet. No redirect is
 * followed. HTTPS trusts the certificates of the file that SSL_CERT_FILE names, else Mozilla's; proxies are those of
 * the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY). */
#pragma once

#include "rust/tq_text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TqRequest TqRequest;
typedef struct TqDigest TqDigest;

/* `headers`: lines "Name: value". `patience_s`: the longest time without a byte. */
int tq_http_start(const char* method, size_t method_size, const char* url, size_t url_size, const char* headers,
                  size_t headers_size, uint32_t patience_s, TqRequest** request, TqText* error);
/* At any time; the transfer then ends by itself. */
void tq_http_free(TqRequest* request);

enum { tq_http_pending = 0, tq_http_head = 1, tq_http_data = 2, tq_http_end = 3 };
/* Waits at most `wait_ms`. `event`: pending; head, once (`status`, and in `data` lines "name: value" with names in
 * lower case); data (bytes of the body); end. */
int tq_http_next(TqRequest* request, uint32_t wait_ms, int* event, int* status, TqText* data, TqText* error);

/* SHA-256, or SHA-1 if `sha1` is not 0. */
TqDigest* tq_digest_new(int sha1);
void tq_digest_free(TqDigest* digest);
void tq_digest_update(TqDigest* digest, const char* data, size_t size);
/* Of all bytes so far, in hexadecimal. */
void tq_digest_hex(const TqDigest* digest, TqText* hex);

#ifdef __cplusplus
}
#endif
