# The library never prints, exits or reads the environment: none of these may be among the symbols that ARCHIVE needs
# from elsewhere. What the C++ runtime brings by itself stays allowed: __cxa_*, _Unwind_*, operator new, std::terminate
# and the std::__throw_* functions, which all end in exceptions or their failure, never in a call of ours.
execute_process(COMMAND ${NM} --undefined-only --demangle ${ARCHIVE} OUTPUT_VARIABLE symbols RESULT_VARIABLE result)
if(NOT result EQUAL 0 OR symbols STREQUAL "")
  message(FATAL_ERROR "no symbols could be read from ${ARCHIVE}")
endif()

set(streams "std::(basic_)?(cout|cerr|clog|wcout|wcerr|wclog|cin)|std::ios_base::Init.*|stdout|stderr|std::basic_[io]?fstream.*")
set(printing "v?f?printf|v?dprintf|__v?f?printf_chk|f?puts|putchar|fputc|_IO_putc|putc|fwrite|perror|psignal|syslog")
set(leaving "exit|_exit|_Exit|quick_exit|abort|raise|kill|__assert_fail|std::__glibcxx_assert_fail.*|hwy::Abort.*")
set(surroundings "(secure_)?getenv|setenv|putenv|system|popen|fork|execv.*|std::rand.*|rand|srand")

set(found)
string(REPLACE "\n" ";" lines "${symbols}")
foreach(line IN LISTS lines)
  if(line MATCHES "^ +[UwW] (${streams}|${printing}|${leaving}|${surroundings})(@.*)?$")
    list(APPEND found "${CMAKE_MATCH_1}")
  endif()
endforeach()
list(REMOVE_DUPLICATES found)
if(found)
  message(FATAL_ERROR "the library calls: ${found}")
endif()
