/* C interface of the Rust crate in this folder: a line of input, edited in the terminal. Conventions as in tq_text.h.
 * An editor is used by one thread at a time, and only if standard input and output are a terminal. */
#pragma once

#include "rust/tq_text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TqLineEditor TqLineEditor;

/* `commands`: lines; a tab completes to one of them. `history`: file of earlier entries, which need not exist; empty:
 * entries are remembered while the editor lives. */
int tq_line_new(const char* commands, size_t commands_size, const char* history, size_t history_size,
                TqLineEditor** editor, TqText* error);
void tq_line_free(TqLineEditor* editor);

enum { tq_line_text = 0, tq_line_interrupted = 1, tq_line_end = 2 };
/* `kind`: text (`line`; of many lines if they were pasted), interrupted (Ctrl-C on an empty line), end (Ctrl-D). */
int tq_line_read(TqLineEditor* editor, const char* prompt, size_t prompt_size, int* kind, TqText* line, TqText* error);
/* Puts an entry into the history, and into its file, which only its owner may read. */
int tq_line_remember(TqLineEditor* editor, const char* entry, size_t entry_size, TqText* error);

#ifdef __cplusplus
}
#endif
