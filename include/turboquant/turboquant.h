// TurboQuant: compress the weights of large language models to 2, 3 or 4 bits and run them fast on a CPU.
#pragma once

#include "turboquant/convert.h"
#include "turboquant/error.h"
#include "turboquant/evaluate.h"
#include "turboquant/interrupt.h"
#include "turboquant/kv_cache.h"
#include "turboquant/language_model.h"
#include "turboquant/version.h"
