/* The function of Windows' bcryptprimitives.dll that Rust's standard library calls. Debian 12's wine has no such library.
 * `cargo xtask release` compiles this beside a program that it runs with wine. It is in no release. */

__declspec(dllimport) unsigned char SystemFunction036(void *buffer, unsigned long length); /* RtlGenRandom, of advapi32 */

__declspec(dllexport) int ProcessPrng(unsigned char *buffer, unsigned long long length) {
  return SystemFunction036(buffer, (unsigned long)length);
}
