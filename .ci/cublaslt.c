// A stub of cuBLASLt for tests without it. cuDNN queries its version before it builds a plan, and aborts the process if
// the library is missing. Plans for attention do not call it.

unsigned long cublasLtGetVersion(void) { return 130100; }
