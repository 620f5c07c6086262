# Runs an example, checks what it says, and that it made the folder OUTPUT if that is given.
if(OUTPUT)
  file(REMOVE_RECURSE ${OUTPUT})
endif()
execute_process(COMMAND ${PROGRAM} ${ARGUMENTS} RESULT_VARIABLE status OUTPUT_VARIABLE output)
message("${output}")
if(NOT status EQUAL 0 OR NOT output MATCHES "${SAYS}" OR (OUTPUT AND NOT EXISTS ${OUTPUT}/model.safetensors))
  message(FATAL_ERROR "the example failed with ${status}")
endif()
