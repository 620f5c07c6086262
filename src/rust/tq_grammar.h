/* C interface of the Rust crate in this folder: which tokens may come next under a grammar. Conventions as in
 * tq_text.h. A vocabulary may be used from several threads at once, a grammar may not. */
#pragma once

#include "rust/tq_text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TqVocabulary TqVocabulary;
typedef struct TqGrammar TqGrammar;

/* size: of the model's logits. end_tokens: any of them ends a text. */
int tq_vocabulary_new(const TqTokenizer* tokenizer, size_t size, const int32_t* end_tokens, size_t end_count,
                      TqVocabulary** vocabulary, TqText* error);
void tq_vocabulary_free(TqVocabulary* vocabulary);

/* kind: 0 a JSON schema, 1 a regular expression (of the whole text), 2 a grammar in llguidance's Lark. A grammar keeps
 * its vocabulary alive by itself. */
int tq_grammar_new(const TqVocabulary* vocabulary, int kind, const char* text, size_t size, TqGrammar** grammar,
                   TqText* error);
void tq_grammar_free(TqGrammar* grammar);
/* Sets the logits of tokens that may not come to -infinity; count must be the vocabulary's size. */
int tq_grammar_mask(TqGrammar* grammar, float* logits, size_t count, TqText* error);
int tq_grammar_accept(TqGrammar* grammar, int32_t id, TqText* error);
/* 1 if nothing may come any more but the end. */
int tq_grammar_finished(const TqGrammar* grammar);

#ifdef __cplusplus
}
#endif
