// allocations.h: counts every allocation of the program and of the C library on its behalf, where the C library lets us stand in its way. Not those of
// clang's OpenMP library, which keeps books of its own about every parallel loop. Include it behind the program.
#pragma once
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define COUNTS_ALLOCATIONS 1
#include <dlfcn.h>
static volatile long allocations;                       // volatile: a compiler knows that calloc() changes no variable of ours
static volatile bool counting;
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static void count_allocation(void *caller) {
    Dl_info from;
    if (counting && !(dladdr(caller, &from) && from.dli_fname && strstr(from.dli_fname, "/libomp"))) allocations++;
}
void *malloc(size_t bytes)              { count_allocation(__builtin_return_address(0)); return __libc_malloc(bytes); }
void *calloc(size_t n, size_t bytes)    { count_allocation(__builtin_return_address(0)); return __libc_calloc(n, bytes); }
void *realloc(void *old, size_t bytes)  { count_allocation(__builtin_return_address(0)); return __libc_realloc(old, bytes); }
#endif
