# `make test-python` in an environment whose pip installs nothing, as where there is no package index.
file(WRITE ${WORK}/bin/pip "#!/bin/sh\nexit 1\n")
file(CHMOD ${WORK}/bin/pip PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)

# RESULT and OUTPUT of make, which knows nothing of a make that runs this.
function(test_python)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env --unset=MAKEFLAGS --unset=TRUNKLINE_NO_PYTHON
                          ${MAKE} -C ${TRUNKLINE_SOURCE} test-python PYTHON_ENV=${WORK} ${ARGN}
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(RESULT "${result}" PARENT_SCOPE)
  set(OUTPUT "${output}" PARENT_SCOPE)
endfunction()

test_python()
if(RESULT EQUAL 0 OR NOT OUTPUT MATCHES "could not be installed.*make test TRUNKLINE_NO_PYTHON=1")
  message(FATAL_ERROR "expected a failure that names TRUNKLINE_NO_PYTHON, got ${RESULT}: ${OUTPUT}")
endif()
test_python(TRUNKLINE_NO_PYTHON=1)
if(NOT RESULT EQUAL 0 OR NOT OUTPUT MATCHES "is not built or tested")
  message(FATAL_ERROR "expected success that says what was left out, got ${RESULT}: ${OUTPUT}")
endif()
