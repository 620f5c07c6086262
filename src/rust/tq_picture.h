/* C interface of the Rust crate in this folder: pictures. Conventions as in tq_text.h. */
#pragma once

#include "rust/tq_text.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The PNG file of an SVG. `scale`: pixels for a unit of the SVG. Text is set in DejaVu Sans, which is built in; fonts
 * of the system are not looked at. */
int tq_picture_png(const char* svg, size_t size, float scale, TqText* png, TqText* error);

#ifdef __cplusplus
}
#endif
