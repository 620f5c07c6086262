// Whether the tests are compiled with a sanitizer that makes them many times slower. Fewer cases of what runs long are
// enough then: they find what sanitizers look for, and the release build runs all.
#pragma once

namespace turboquant {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace turboquant
