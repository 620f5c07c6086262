# Runs an example that makes a folder, and checks that it made it.
file(REMOVE_RECURSE ${OUTPUT})
execute_process(COMMAND ${PROGRAM} ${MODEL} ${OUTPUT} RESULT_VARIABLE status OUTPUT_VARIABLE output)
message("${output}")
if(NOT status EQUAL 0 OR NOT EXISTS ${OUTPUT}/model.safetensors OR NOT output MATCHES "tokens a second")
  message(FATAL_ERROR "the example failed with ${status}")
endif()
