// Package sys holds drover's raw Linux system calls, and is the only package
// that uses golang.org/x/sys/unix or unsafe. Its functions decide nothing: each
// does one thing to descriptors and processes that the caller owns, and returns
// the kernel's error with the call's name.
package sys
