# How targets of this project are declared: one per folder, all with the same flags.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()

add_library(trunkline_flags INTERFACE)
target_compile_options(trunkline_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow>)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 warns falsely about "literal" + std::string (GCC bug 105651).
  target_compile_options(trunkline_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(TRUNKLINE_WERROR)
  target_compile_options(trunkline_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(TRUNKLINE_CUDA)
  target_compile_options(trunkline_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wshadow;--expt-relaxed-constexpr>")
  if(TRUNKLINE_WERROR)
    target_compile_options(trunkline_flags INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings>")
  endif()
endif()
if(TRUNKLINE_SANITIZE)
  add_compile_options(-fsanitize=${TRUNKLINE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g1)
  add_link_options(-fsanitize=${TRUNKLINE_SANITIZE})
endif()

# trunkline_layer(NAME SOURCES file... [DEPENDS layer...] [LINK target...])
# An object library trunkline_NAME of this folder's sources. DEPENDS names the layers whose headers it may include; the
# include-layering test holds the sources to it.
function(trunkline_layer NAME)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LINK" ${ARGN})
  add_library(trunkline_${NAME} OBJECT ${ARG_SOURCES})
  target_include_directories(trunkline_${NAME} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(trunkline_${NAME} PRIVATE trunkline_flags ${ARG_LINK})
  foreach(dependency IN LISTS ARG_DEPENDS)
    target_link_libraries(trunkline_${NAME} PRIVATE trunkline_${dependency})
  endforeach()
  set_property(GLOBAL APPEND PROPERTY TRUNKLINE_LAYERS trunkline_${NAME})
endfunction()

# trunkline_cuda_layer(NAME GENCODE code... SOURCES file...)
# A layer of CUDA kernels, compiled for the given -gencode targets.
function(trunkline_cuda_layer NAME)
  cmake_parse_arguments(ARG "" "" "GENCODE;SOURCES" ${ARGN})
  trunkline_layer(${NAME} SOURCES ${ARG_SOURCES} LINK CUDA::cudart_static)
  foreach(code IN LISTS ARG_GENCODE)
    target_compile_options(trunkline_${NAME} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-gencode ${code}>")
  endforeach()
endfunction()

# trunkline_test(NAME SOURCES file... [LINK target...])
# A GoogleTest program test_NAME. RapidCheck draws the same cases in every run; what RC_PARAMS holds already comes after,
# and wins.
function(trunkline_test NAME)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(test_${NAME} ${ARG_SOURCES})
  target_include_directories(test_${NAME} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(test_${NAME} PRIVATE trunkline::trunkline trunkline_flags GTest::gmock GTest::gtest_main ${ARG_LINK})
  target_compile_definitions(test_${NAME} PRIVATE TRUNKLINE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${NAME} COMMAND test_${NAME})
  set_tests_properties(${NAME} PROPERTIES TIMEOUT 900 ENVIRONMENT_MODIFICATION "RC_PARAMS=string_prepend:seed=1 ")
endfunction()
