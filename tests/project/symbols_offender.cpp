// A library that prints: what the symbol check is there to find.
#include <cstdio>

void trunkline_symbols_offender();
void trunkline_symbols_offender() { std::puts("a library should not say this"); }
