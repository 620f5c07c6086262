/* C interface of the Rust crate in this folder: Hugging Face tokenizers and Jinja chat templates.
 *
 * Text is UTF-8 given as pointer and size, without a terminating zero. Functions that can fail return 0 for success; on
 * any other value `error` holds one line of text, and the other results are untouched. No Rust panic leaves them.
 * What a function puts into a TqText or TqIds is the caller's, who gives it back with the free function. An object may
 * be used from several threads at once, except a TqStream. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TqTokenizer TqTokenizer;
typedef struct TqStream TqStream;
typedef struct TqTemplate TqTemplate;

typedef struct TqText {
  char* data; /* NULL if size is 0 */
  size_t size;
} TqText;

typedef struct TqIds {
  int32_t* data; /* NULL if size is 0 */
  size_t size;
} TqIds;

void tq_text_free(TqText text);
void tq_ids_free(TqIds ids);

/* From the text of a tokenizer.json. Its truncation and padding settings are ignored, as transformers does. */
int tq_tokenizer_new(const char* json, size_t size, TqTokenizer** tokenizer, TqText* error);
void tq_tokenizer_free(TqTokenizer* tokenizer);
int tq_tokenizer_encode(const TqTokenizer* tokenizer, const char* text, size_t size, int add_special, TqIds* ids,
                        TqText* error);
/* Ids without a token are skipped; a negative id is an error. */
int tq_tokenizer_decode(const TqTokenizer* tokenizer, const int32_t* ids, size_t count, int skip_special, TqText* text,
                        TqText* error);
/* -1 if there is no such token. */
int tq_tokenizer_token_to_id(const TqTokenizer* tokenizer, const char* token, size_t size, int32_t* id, TqText* error);
/* found is 0 if the id has no token. */
int tq_tokenizer_id_to_token(const TqTokenizer* tokenizer, int32_t id, int* found, TqText* token, TqText* error);
/* The bytes that a token stands for in the middle of a text, not always whole characters; none if there is no such
 * token. */
int tq_tokenizer_token_bytes(const TqTokenizer* tokenizer, int32_t id, TqText* bytes, TqText* error);
int tq_tokenizer_vocab_size(const TqTokenizer* tokenizer, int64_t* size, TqText* error);

/* Decodes ids one at a time. It keeps the tokenizer alive by itself. */
int tq_stream_new(const TqTokenizer* tokenizer, int skip_special, TqStream** stream, TqText* error);
void tq_stream_free(TqStream* stream);
int tq_stream_add(TqStream* stream, int32_t id, TqText* piece, TqText* error);
/* The rest; the stream is as new afterwards. */
int tq_stream_finish(TqStream* stream, TqText* piece, TqText* error);

int tq_template_new(const char* source, size_t size, TqTemplate** chat, TqText* error);
void tq_template_free(TqTemplate* chat);
/* messages: a JSON array of objects. variables: a JSON object whose members become variables of the template, and
 * take the place of bos_token and eos_token if they have these names. */
int tq_template_render(const TqTemplate* chat, const char* messages, size_t messages_size, const char* variables,
                       size_t variables_size, const char* bos_token, size_t bos_size, const char* eos_token,
                       size_t eos_size, int add_generation_prompt, TqText* text, TqText* error);

#ifdef __cplusplus
}
#endif
