# Makes the one file that is served of index.html, style.css and the scripts, and C++ of that.
#
#   cmake -DSOURCE=src/serve/page -DOUT=FOLDER "-DSCRIPTS=dom.js;..." -P embed.cmake
#
# OUT/index.html is the page, OUT/policy.txt its Content-Security-Policy, OUT/page.cpp both for the program.

# As browsers compute it: base64 of the SHA-256. CMake has hexadecimal: three digits are two of base64.
function(csp_hash text variable)
  set(base64 ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/)
  string(SHA256 hex "${text}")
  string(APPEND hex 00)  # 64 digits: the two that are missing are the padding
  set(result "")
  foreach(at RANGE 0 63 3)
    string(SUBSTRING ${hex} ${at} 3 digits)
    math(EXPR high "0x${digits} >> 6")
    math(EXPR low "0x${digits} & 63")
    foreach(value ${high} ${low})
      string(SUBSTRING ${base64} ${value} 1 letter)
      string(APPEND result ${letter})
    endforeach()
  endforeach()
  string(REGEX REPLACE ".$" "=" result ${result})
  set(${variable} "'sha256-${result}'" PARENT_SCOPE)
endfunction()

file(READ ${SOURCE}/style.css style)
set(script "")
foreach(name IN LISTS SCRIPTS)
  file(READ ${SOURCE}/${name} text)
  string(APPEND script "${text}")
endforeach()
foreach(text IN ITEMS "${style}" "${script}")
  string(FIND "${text}" "</s" end_tag)
  if(NOT end_tag EQUAL -1)
    message(FATAL_ERROR "a style or script of ${SOURCE} has the text '</s', which could end it")
  endif()
endforeach()
csp_hash("${style}" style_hash)
csp_hash("${script}" script_hash)
set(policy "default-src 'none'; script-src ${script_hash}; style-src ${style_hash}; img-src data:; connect-src 'self'; ")
string(APPEND policy "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")

file(READ ${SOURCE}/index.html page)
string(REPLACE "@STYLE@" "${style}" page "${page}")
string(REPLACE "@SCRIPT@" "${script}" page "${page}")
file(WRITE ${OUT}/index.html "${page}")
file(WRITE ${OUT}/policy.txt "${policy}")
file(WRITE ${OUT}/page.cpp "// Made by src/serve/page/embed.cmake.
#include \"serve/page.h\"

namespace turboquant {

std::string_view chat_page() {
  return R\"page(${page})page\";
}
std::string_view chat_page_policy() {
  return R\"page(${policy})page\";
}

}  // namespace turboquant
")
